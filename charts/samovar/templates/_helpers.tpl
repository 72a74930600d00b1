{{/* Prefix of every object's name: the release's name, and the chart's unless the release's contains it. */}}
{{- define "samovar.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select one component's Pods. Takes (list $ "agent"). */}}
{{- define "samovar.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: samovar
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of every object. Takes (list $ "agent"), or (list $) for an object of no component. */}}
{{- define "samovar.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/name" "samovar"
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/part-of" "samovar"
  "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- if gt (len .) 1 }}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) }}
{{- end }}
{{- /* The chart's own labels take precedence: selectors use them. */}}
{{- toYaml (merge $own ($root.Values.commonLabels | default dict)) }}
{{- end }}

{{/* The ServiceAccount's name of one component. Takes (list $ "agent"). */}}
{{- define "samovar.serviceAccountName" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $account := (index $root.Values $component).serviceAccount -}}
{{- if $account.create }}
{{- $account.name | default (printf "%s-%s" (include "samovar.fullname" $root) $component) }}
{{- else }}
{{- required (printf "%s.serviceAccount.name is required if create is false" $component) $account.name }}
{{- end }}
{{- end }}

{{/* DNS name of the operator, of its Service and in its certificate. */}}
{{- define "samovar.operatorHost" -}}
{{ include "samovar.fullname" . }}-operator.{{ .Release.Namespace }}.svc
{{- end }}

{{/* The image of one component. A digest takes precedence over a tag. Takes (list $ "agent"). */}}
{{- define "samovar.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index $root.Values (index . 1)).image -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
