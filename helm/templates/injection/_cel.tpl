{{- /*
A value of YAML as a CEL literal. CEL takes maps and lists of one type only, hence dyn().
*/}}
{{- define "cel.literal" -}}
{{- $root := . -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }}, {{ end }}{{ toRawJson $key }}: dyn({{ include "cel.literal" (get $root $key) }}){{ end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}dyn({{ include "cel.literal" $item }}){{ end }}]
{{- else if kindIs "string" . -}}
{{ toRawJson . }}
{{- else -}}
{{ include "scalar" . }}
{{- end -}}
{{- end }}

{{- /* A list of strings as a CEL list. */}}
{{- define "cel.strings" -}}
{{ . | default list | toRawJson }}
{{- end }}
