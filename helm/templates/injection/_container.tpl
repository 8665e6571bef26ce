{{- /*
What joins a computing-unit pod, said once as plain YAML: the admission policy carries it as CEL
(_cel.tpl), `injection.mode: none` prints it.
*/}}

{{- define "sidecar.image" -}}
{{ include "image" (dict "root" $ "image" .Values.sidecar.image) }}
{{- end }}

{{- define "sidecar.centralUrl" -}}
{{- .Values.sidecar.centralUrl | default (printf "%s://%s:%d" (include "tls.scheme" .) (include "central.host" .) (int .Values.central.service.port)) -}}
{{- end }}

{{- define "sidecar.container" -}}
{{- with .Values.sidecar -}}
name: {{ .containerName }}
image: {{ include "sidecar.image" $ }}
imagePullPolicy: {{ .image.pullPolicy }}
args: [serve]
# A native sidecar: up before the computing unit, ended after it.
restartPolicy: Always
env:
  - name: SIDECAR_CENTRAL_URL
    value: {{ include "sidecar.centralUrl" $ | quote }}
  {{- with include "sidecar.caFile" $ }}
  - name: SIDECAR_CENTRAL_CA_FILE
    value: {{ . }}
  {{- end }}
  {{- if include "tls.hasClients" $ }}
  - name: SIDECAR_TLS_CERT_FILE
    value: /etc/sidecar-tls/tls.crt
  - name: SIDECAR_TLS_KEY_FILE
    value: /etc/sidecar-tls/tls.key
  {{- end }}
  - name: SIDECAR_LISTEN
    value: {{ printf "127.0.0.1:%d" (int .port) | quote }}
  - name: SIDECAR_OPS_LISTEN
    value: {{ printf "0.0.0.0:%d" (int .opsPort) | quote }}
  - name: SIDECAR_SPOOL_DIR
    value: /var/lib/sidecar
  - name: SIDECAR_ASSERTION_AUDIENCE
    value: {{ $.Values.assertionAudience | quote }}
  {{- if ne $.Values.workloadIdentity.mode "off" }}
  - name: SIDECAR_WORKLOAD_TOKEN_FILE
    value: /var/run/secrets/central/token
  {{- end }}
  {{- include "settings" (dict "prefix" "SIDECAR_" "settings" .settings) | nindent 2 }}
ports:
  - name: sidecar-ops
    containerPort: {{ .opsPort }}
    protocol: TCP
# No readinessProbe: an unready sidecar would unpublish the whole unit.
startupProbe:
  httpGet: {path: /readyz, port: {{ .opsPort }}, scheme: HTTP}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ .opsPort }}, scheme: HTTP}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
# Equal, or the pod would leave the Guaranteed class. No ephemeral-storage limit: it would count
# what the computing unit writes, too.
resources:
  requests: {cpu: {{ .resources.cpu | quote }}, memory: {{ .resources.memory | quote }}}
  limits: {cpu: {{ .resources.cpu | quote }}, memory: {{ .resources.memory | quote }}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .runAsUser }}
  runAsGroup: {{ .runAsUser }}
  {{- include "containerSecurityContext" $ | nindent 2 }}
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: {{ include "sidecar.spoolVolume" $ }}
    mountPath: /var/lib/sidecar
  {{- if ne $.Values.workloadIdentity.mode "off" }}
  - name: {{ include "sidecar.tokenVolume" $ }}
    mountPath: /var/run/secrets/central
    readOnly: true
  {{- end }}
  {{- if include "sidecar.caConfigMap" $ }}
  - name: {{ include "sidecar.caVolume" $ }}
    mountPath: /etc/central-ca
    readOnly: true
  {{- end }}
  {{- if include "tls.hasClients" $ }}
  - name: {{ include "sidecar.tlsVolume" $ }}
    mountPath: /etc/sidecar-tls
    readOnly: true
  {{- end }}
{{- end -}}
{{- end }}

{{- define "sidecar.spoolVolume" -}}
{{ .Values.sidecar.containerName }}-spool
{{- end }}

{{- define "sidecar.caVolume" -}}
{{ .Values.sidecar.containerName }}-ca
{{- end }}

{{- define "sidecar.tlsVolume" -}}
{{ .Values.sidecar.containerName }}-tls
{{- end }}

{{- define "sidecar.tokenVolume" -}}
{{ .Values.sidecar.containerName }}-token
{{- end }}

{{- define "sidecar.volumes" -}}
- name: {{ include "sidecar.spoolVolume" . }}
  emptyDir:
    sizeLimit: {{ .Values.sidecar.spoolVolume.sizeLimit }}
{{- with .Values.workloadIdentity }}
{{- if ne .mode "off" }}
- name: {{ include "sidecar.tokenVolume" $ }}
  projected:
    defaultMode: 420
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ $.Values.assertionAudience | quote }}
          expirationSeconds: {{ .expirationSeconds }}
{{- end }}
{{- end }}
{{- if include "sidecar.caConfigMap" . }}
- name: {{ include "sidecar.caVolume" . }}
  configMap:
    name: {{ include "sidecar.caConfigMap" . }}
    defaultMode: 420
    items:
      - key: {{ .Values.tls.caConfigMap.key }}
        path: ca.crt
{{- end }}
{{- if include "tls.hasClients" . }}
- name: {{ include "sidecar.tlsVolume" . }}
  {{- with .Values.tls.clients.volume }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  secret:
    secretName: {{ include "tls.clientSecretName" . }}
    defaultMode: 292 # readable for the sidecar's user, whom no fsGroup may give a group; no other container mounts it
  {{- end }}
{{- end }}
{{- end }}

{{- /* Variables of every other container. */}}
{{- define "sidecar.endpoints" -}}
{{- $url := printf "http://127.0.0.1:%d" (int .Values.sidecar.port) -}}
{{- range $name, $value := .Values.injection.env }}
- name: {{ $name }}
  value: {{ $value | replace "$(SIDECAR_URL)" $url | quote }}
{{- end }}
{{- if has "AUTH_JWT_SECRET" (.Values.injection.strip | default list) }}
# Left unset, Texera would fall back to its public default key.
- name: AUTH_JWT_SECRET
  value: random
{{- end }}
{{- end }}

{{- define "sidecar.gracePeriod" -}}
{{- add .Values.injection.computingUnitStopSeconds .Values.sidecar.settings.drainTimeoutS 5 -}}
{{- end }}

{{- /* On every injected pod, with the digest of the list it was stripped by: a longer list must not
take the pods of a shorter one for clean. */}}
{{- define "sidecar.strippedLabel" -}}
{{ include "name" . }}/stripped
{{- end }}

{{- define "sidecar.strippedDigest" -}}
{{ .Values.injection.strip | default list | sortAlpha | join "," | sha256sum | trunc 12 }}
{{- end }}

{{- /* Do computing units lose the database's credentials? */}}
{{- define "strips.sql" -}}
{{- range .Values.injection.strip }}{{ if hasPrefix "STORAGE_JDBC_" . }}true{{ end }}{{ end -}}
{{- end }}

{{- define "sidecar.volumeNames" -}}
{{- range include "sidecar.volumes" . | fromYamlArray }}
- {{ .name }}
{{- end }}
{{- end }}

{{- /* For a patched manager: a strategic merge onto its pod, and what to leave out of it. */}}
{{- define "sidecar.podFragment" -}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ include "sidecar.gracePeriod" . }}
  {{- with .Values.sidecar.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  volumes: {{- include "sidecar.volumes" . | nindent 4 }}
  initContainers:
    - {{- include "sidecar.container" . | nindent 6 }}
  containers:
    - name: computing-unit-master
      # Left out: {{ .Values.injection.strip | default (list "the credentials that the image can do without") | join ", " }}
      env: {{- include "sidecar.endpoints" . | nindent 8 }}
{{- end }}
