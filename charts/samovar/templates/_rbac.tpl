{{/*
Binds rules to a component, for the watched namespaces: by a ClusterRole, or by a Role in each of watchNamespaces.
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

{{/* Subject of a binding: a component's ServiceAccount. Takes (list $ "agent"). */}}
{{- define "samovar.subject" -}}
- kind: ServiceAccount
  name: {{ include "samovar.serviceAccountName" . }}
  namespace: {{ (index . 0).Release.Namespace }}
{{- end }}
