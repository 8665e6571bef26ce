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
- name: CENTRAL_LISTEN
  value: {{ printf "0.0.0.0:%d" (int .service.port) | quote }}
- name: CENTRAL_OPS_LISTEN
  value: {{ printf "0.0.0.0:%d" (int .service.opsPort) | quote }}
- name: CENTRAL_ASSERTION_AUDIENCE
  value: {{ $.Values.assertionAudience | quote }}
{{- include "settings" (dict "prefix" "CENTRAL_" "settings" .settings) }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end }}

{{- define "central.volumeMounts" -}}
{{- with .Values.central }}
{{- if .jwt.jwks.configMap.name }}
- name: jwks
  mountPath: /etc/central/jwks
  readOnly: true
{{- end }}
{{- with .extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "central.volumes" -}}
{{- with .Values.central }}
{{- with .jwt.jwks.configMap }}
{{- if .name }}
- name: jwks
  configMap:
    name: {{ .name }}
    items:
      - key: {{ .key }}
        path: jwks.json
{{- end }}
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
