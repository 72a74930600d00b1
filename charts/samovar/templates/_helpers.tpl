{{/* Every object's name begins with it: the release's name, and the chart's where the release's does not say it. */}}
{{- define "samovar.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that choose one component's Pods. Takes (list $ "agent"). */}}
{{- define "samovar.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: samovar
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of every object. Takes (list $ "agent"), or (list $) for what belongs to no component. */}}
{{- define "samovar.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: samovar
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: samovar
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The ServiceAccount's name of one component. Takes (list $ "agent"). */}}
{{- define "samovar.serviceAccountName" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $account := (index $root.Values $component).serviceAccount -}}
{{- if $account.create }}
{{- $account.name | default (printf "%s-%s" (include "samovar.fullname" $root) $component) }}
{{- else }}
{{- required (printf "%s.serviceAccount.name is needed where create is false" $component) $account.name }}
{{- end }}
{{- end }}

{{/* The image of one component: a digest counts more than a tag. Takes (list $ "agent"). */}}
{{- define "samovar.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index $root.Values (index . 1)).image -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The flags that both programs take. Takes (list $ "agent"). */}}
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

{{/* The metadata of one component's Pods. Takes (list $ "agent"). */}}
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

{{/* What of a Pod's spec both components have alike. Takes (list $ "agent"). */}}
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

{{/* What of its container both components have alike. Takes (list $ "agent"). */}}
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

{{/* The registries' credentials in both components: the mount and the volume. */}}
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

{{/* What both components may reach: DNS, and ports of registries and the API server, whose addresses nobody knows. */}}
{{- define "samovar.egress" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
- ports:
    {{- range .Values.networkPolicy.egressPorts }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
    {{- range .Values.registry.insecure }}
    - { port: {{ splitList ":" . | last }}, protocol: TCP }
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

{{/*
Rules for a component, where plugins are watched: a ClusterRole, or a Role in each of watchNamespaces.
Takes (list $ "agent" RULES).
*/}}
{{- define "samovar.grant" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $rules := index . 2 -}}
{{- $name := printf "%s-%s" (include "samovar.fullname" $root) $component -}}
{{- $namespaces := $root.Values.watchNamespaces -}}
{{- $prefix := ternary "" "Cluster" (gt (len $namespaces) 0) -}}
{{- range $namespaces | default (list "") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}Role
metadata:
  name: {{ $name }}
  {{- with . }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "samovar.labels" (list $root $component) | nindent 4 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}RoleBinding
metadata:
  name: {{ $name }}
  {{- with . }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "samovar.labels" (list $root $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $prefix }}Role
  name: {{ $name }}
subjects:
  {{- include "samovar.subject" (list $root $component) | nindent 2 }}
{{- end }}
{{- end }}

{{/* A component's ServiceAccount as the subject of a binding. Takes (list $ "agent"). */}}
{{- define "samovar.subject" -}}
- kind: ServiceAccount
  name: {{ include "samovar.serviceAccountName" . }}
  namespace: {{ (index . 0).Release.Namespace }}
{{- end }}
