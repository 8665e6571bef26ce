{{- /* Whether central's API is https; the ops listener never is, for probes. */}}
{{- define "tls.scheme" -}}
{{ ternary "http" "https" (eq .Values.tls.mode "none") }}
{{- end }}

{{- /* The Secret with central's certificate, and the CA of clients as ca.crt. */}}
{{- define "tls.secretName" -}}
{{ .Values.tls.secretName | default (printf "%s-tls" (include "central.name" .)) }}
{{- end }}

{{- /* Do sidecars show certificates? */}}
{{- define "tls.hasClients" -}}
{{- if ne .Values.tls.clients.mode "none" }}true{{ end -}}
{{- end }}

{{- /* The Secret with the sidecars' certificate, in the pool's namespace; empty where a volume has it. */}}
{{- define "tls.clientSecretName" -}}
{{- with .Values.tls.clients -}}
{{- if and (ne .mode "none") (not .volume) -}}
{{ .secretName | default (printf "%s-client-tls" (include "fullname" $)) }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* What the sidecars' certificate names: to central the identity of all of them. */}}
{{- define "tls.clientName" -}}
{{ include "fullname" . }}.{{ .Values.poolNamespace }}
{{- end }}

{{- /* The names by which clients in the cluster call central, the longest first. */}}
{{- define "tls.names" -}}
{{- $name := printf "%s.%s" (include "central.name" .) .Release.Namespace -}}
- {{ include "central.host" . }}
- {{ $name }}.svc
- {{ $name }}
{{- end }}

{{- /* The ConfigMap in the pool's namespace with the CA that sidecars trust; empty for none. */}}
{{- define "sidecar.caConfigMap" -}}
{{- with .Values.tls -}}
{{- if or .ca (eq .mode "selfSigned") -}}
{{ include "fullname" $ }}-ca
{{- else -}}
{{ .caConfigMap.name }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Where the sidecar finds that CA: in the ConfigMap, or in cert-manager's Secret with its own
certificate. Empty for the system's CAs. */}}
{{- define "sidecar.caFile" -}}
{{- if include "sidecar.caConfigMap" . -}}
/etc/central-ca/ca.crt
{{- else if and (eq .Values.tls.mode "certManager") (include "tls.clientSecretName" .) -}}
/etc/sidecar-tls/ca.crt
{{- end -}}
{{- end }}

{{- /* (dict "root" $ "ca" PEM) */}}
{{- define "tls.authority" -}}
# In the namespace of the sidecars, which mount it.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "sidecar.caConfigMap" .root }}
  namespace: {{ .root.Values.poolNamespace }}
  labels: {{- include "labels" (dict "root" .root "component" "injection") | nindent 4 }}
data:
  {{ .root.Values.tls.caConfigMap.key }}: |
    {{- .ca | trim | nindent 4 }}
{{- end }}

{{- /* (dict "root" $ "name" "namespace" "component" "data", its values in base64) */}}
{{- define "tls.secret" -}}
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- include "labels" (dict "root" .root "component" .component) | nindent 4 }}
  annotations:
    # What the certificates were made for. With another host they are made anew.
    {{ include "name" .root }}/host: {{ include "central.host" .root }}
data: {{- pick .data "ca.crt" "tls.crt" "tls.key" | toYaml | nindent 2 }}
{{- end }}
