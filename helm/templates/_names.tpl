{{- define "name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "central.name" -}}
{{- include "fullname" . }}-central
{{- end }}

{{- /* What selects an object's pods; a Deployment cannot change it. */}}
{{- define "central.selector" -}}
app.kubernetes.io/name: {{ include "name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: central
{{- end }}

{{- /* (dict "root" $ "component" "central") */}}
{{- define "labels" -}}
app.kubernetes.io/name: {{ include "name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: texera
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "image" .Values.central.image) */}}
{{- define "image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "central.serviceAccountName" -}}
{{- if .Values.central.serviceAccount.create -}}
{{- .Values.central.serviceAccount.name | default (include "central.name" .) -}}
{{- else -}}
{{- .Values.central.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- /* Where the container listens. A Service may have any port; one below 1024 is not for a process
without privileges. */}}
{{- define "central.port" -}}7080{{- end }}
{{- define "central.opsPort" -}}7081{{- end }}

{{- define "central.host" -}}
{{ include "central.name" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- /* Whole numbers arrive as floats: 268435456 must not become 2.68435456e+08. */}}
{{- define "scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end }}

{{- /* The services' own settings as environment: (dict "prefix" "CENTRAL_" "settings" map). */}}
{{- define "settings" -}}
{{- $prefix := .prefix -}}
{{- range $key, $value := .settings }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $prefix }}{{ $key | snakecase | upper }}
  value: {{ include "scalar" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Bytes of a quantity in Ki, Mi or Gi (the schema takes no other). */}}
{{- define "bytes" -}}
{{- $number := . | trimSuffix "Ki" | trimSuffix "Mi" | trimSuffix "Gi" | int64 -}}
{{- if hasSuffix "Gi" . -}}{{ mul $number 1073741824 }}
{{- else if hasSuffix "Mi" . -}}{{ mul $number 1048576 }}
{{- else -}}{{ mul $number 1024 }}{{- end -}}
{{- end }}

{{- define "podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}
