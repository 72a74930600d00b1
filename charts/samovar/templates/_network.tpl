{{/* What both components may reach: DNS, and ports of registries and the API server, whose addresses nobody knows. */}}
{{- define "samovar.egress" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- /* A rule without a port would be one for every port. */}}
{{- if or .Values.networkPolicy.egressPorts .Values.registry.insecure }}
- ports:
    {{- range .Values.networkPolicy.egressPorts }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
    {{- range .Values.registry.insecure }}
    - { port: {{ splitList ":" . | last }}, protocol: TCP }
    {{- end }}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A port that `from` may reach, or everybody where that is empty. Takes (list "http" from). */}}
{{- define "samovar.ingress" -}}
- ports:
    - { port: {{ index . 0 }}, protocol: TCP }
  {{- with index . 1 }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
