{{- /* A variable whose value stands in a Secret: (dict "name" NAME "secret" (dict "name" "key")). */}}
{{- define "env.secret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret.name }}
      key: {{ .secret.key }}
{{- end }}

{{- define "central.env" -}}
{{- with .Values.central -}}
{{ include "env.secret" (dict "name" "CENTRAL_DATABASE_URL" "secret" .database.existingSecret) }}
{{- if .jwt.existingSecret.name }}
{{ include "env.secret" (dict "name" "CENTRAL_JWT_SECRET" "secret" .jwt.existingSecret) }}
{{- else }}
- name: CENTRAL_JWT_JWKS
  value: {{ .jwt.jwks.url | default "/etc/central/jwks/jwks.json" | quote }}
{{- end }}
{{- if .runTokens.existingSecret.name }}
{{ include "env.secret" (dict "name" "CENTRAL_RUN_TOKEN_KEYS" "secret" .runTokens.existingSecret) }}
{{- end }}
- name: CENTRAL_LISTEN
  value: {{ printf "0.0.0.0:%s" (include "central.port" $) | quote }}
{{- if ne $.Values.tls.mode "none" }}
- name: CENTRAL_TLS_CERT_FILE
  value: /etc/central/tls/tls.crt
- name: CENTRAL_TLS_KEY_FILE
  value: /etc/central/tls/tls.key
{{- end }}
{{- if include "tls.hasClients" $ }}
- name: CENTRAL_TLS_CLIENT_CA_FILE
  value: /etc/central/tls/ca.crt
- name: CENTRAL_TLS_CLIENT_AUTH
  value: {{ $.Values.tls.clients.mode }}
{{- end }}
- name: CENTRAL_OPS_LISTEN
  value: {{ printf "0.0.0.0:%s" (include "central.opsPort" $) | quote }}
- name: CENTRAL_ASSERTION_AUDIENCE
  value: {{ $.Values.assertionAudience | quote }}
{{- with $.Values.workloadIdentity }}
{{- if ne .mode "off" }}
- name: CENTRAL_WORKLOAD_IDENTITY
  value: {{ .mode }}
- name: CENTRAL_WORKLOAD_NAMESPACE
  value: {{ $.Values.poolNamespace }}
- name: CENTRAL_WORKLOAD_AUDIENCE
  value: {{ $.Values.assertionAudience | quote }}
- name: CENTRAL_WORKLOAD_JWKS
  value: {{ ternary "/etc/central/workload-jwks/jwks.json" .jwks.url (ne .jwks.configMap.name "") | quote }}
{{- end }}
{{- end }}
{{- if include "central.asksTheCluster" $ }}
- name: CENTRAL_WORKLOAD_JWKS_TOKEN_FILE
  value: /etc/central/cluster/token
- name: CENTRAL_JWKS_CA_FILE
  value: /etc/central/cluster/ca.crt
{{- end }}
{{- include "settings" (dict "prefix" "CENTRAL_" "settings" .settings) }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end }}

{{- /* Does central fetch the cluster's key set from the API server? Then it needs a token and the CA. */}}
{{- define "central.asksTheCluster" -}}
{{- with .Values.workloadIdentity -}}
{{- if and (ne .mode "off") (not .jwks.configMap.name) (hasPrefix "https://kubernetes.default.svc" .jwks.url) -}}
true
{{- end -}}
{{- end -}}
{{- end }}

{{- define "central.volumeMounts" -}}
{{- range include "central.ownVolumes" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: /etc/central/{{ .name }}
  readOnly: true
{{- end }}
{{- with .Values.central.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "central.volumes" -}}
{{- include "central.ownVolumes" . }}
{{- with .Values.central.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Each is mounted under /etc/central by its name. */}}
{{- define "central.ownVolumes" -}}
{{- if ne .Values.tls.mode "none" }}
- name: tls
  secret:
    secretName: {{ include "tls.secretName" . }}
    defaultMode: 0440 # the key: for the group of the pod's fsGroup
{{- end }}
{{- with .Values.central.jwt.jwks.configMap }}
{{- if .name }}
- name: jwks
  configMap:
    name: {{ .name }}
    items:
      - key: {{ .key }}
        path: jwks.json
{{- end }}
{{- end }}
{{- with .Values.workloadIdentity }}
{{- if and (ne .mode "off") .jwks.configMap.name }}
- name: workload-jwks
  configMap:
    name: {{ .jwks.configMap.name }}
    items:
      - key: {{ .jwks.configMap.key }}
        path: jwks.json
{{- end }}
{{- end }}
{{- if include "central.asksTheCluster" . }}
# For the key set only: no Role names central's account.
- name: cluster
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
{{- end }}
