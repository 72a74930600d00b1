{{/* Egress of both components: DNS, and by port, since addresses are unknown, registries and the API server. */}}
{{- define "samovar.egress" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- /* A rule with an empty list of ports would allow every port. */}}
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

{{/* Ingress rule of one port for the peers `from`, or for everybody if that is empty. Takes (list "http" from). */}}
{{- define "samovar.ingress" -}}
- ports:
    - { port: {{ index . 0 }}, protocol: TCP }
  {{- with index . 1 }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
