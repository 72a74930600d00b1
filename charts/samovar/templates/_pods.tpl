{{/* Flags of both programs. Takes (list $ "agent"). */}}
{{- define "samovar.args" -}}
{{- $root := index . 0 -}}
- --ops-listen=0.0.0.0:8081
- --log-format={{ $root.Values.logFormat }}
{{- range $root.Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- range $root.Values.registry.insecure }}
- --insecure-registry={{ . }}
{{- end }}
{{- if $root.Values.registry.dockerConfigSecret }}
- --docker-config=/etc/samovar/docker/config.json
{{- end }}
{{- range (index $root.Values (index . 1)).extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Metadata of one component's Pods. Takes (list $ "agent"). */}}
{{- define "samovar.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
labels:
  {{- toYaml (merge (include "samovar.selectorLabels" . | fromYaml) $root.Values.commonLabels $values.podLabels) | nindent 2 }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Fields of the Pod's spec that both components share. Takes (list $ "agent"). */}}
{{- define "samovar.podSpec" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
serviceAccountName: {{ include "samovar.serviceAccountName" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- with get $values $field }}
{{ toYaml (dict $field .) }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* Fields of the container that both components share. Takes (list $ "agent"). */}}
{{- define "samovar.container" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
image: {{ include "samovar.image" . }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
startupProbe:
  httpGet: { path: /healthz, port: ops }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: ops }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: { path: /readyz, port: ops }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Mount and volume of the registry credentials, in both components. */}}
{{- define "samovar.dockerConfigMount" -}}
- name: docker-config
  mountPath: /etc/samovar/docker
  readOnly: true
{{- end }}
{{- define "samovar.dockerConfigVolume" -}}
- name: docker-config
  secret:
    secretName: {{ .Values.registry.dockerConfigSecret }}
    items:
      - key: .dockerconfigjson
        path: config.json
{{- end }}
