{{- /* Policies are cluster-wide, so their names carry the release's namespace. */}}
{{- define "policy.name" -}}
{{ .root.Release.Namespace }}-{{ include "fullname" .root }}-{{ .what }}
{{- end }}

{{- /* The pods that Texera's manager creates; prepull DaemonSets may live in the same namespace. */}}
{{- define "policy.pods" -}}
matchPolicy: Equivalent
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .Values.poolNamespace }}
objectSelector:
  matchLabels:
    type: computing-unit
{{- end }}

{{- /* Is mount `m` the service account's, by its place or by its volume? */}}
{{- define "policy.tokenMount" -}}
m.mountPath == "/var/run/secrets/kubernetes.io/serviceaccount" || m.name in variables.tokenVolumes
{{- end }}
