{{- define "network.dns" -}}
{{- with .Values.networkPolicy.dns -}}
- to: {{- toYaml .to | nindent 4 }}
  ports:
    - port: {{ .port }}
      protocol: UDP
    - port: {{ .port }}
      protocol: TCP
{{- end -}}
{{- end }}
