{{/* The names of what belongs to a release: arx-ca and arx-node-agent in a release called arx. */}}
{{- define "arx.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Of objects that are not in a namespace, so that two releases don't share one. */}}
{{- define "arx.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "arx.name" .) -}}
{{- end -}}

{{- define "arx.labels" -}}
{{ include "arx.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: arx
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "arx.selector" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "arx.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A tree as TOML. Helm reads every number as a fraction, and Arx has none. */}}
{{- define "arx.toml" -}}
{{- regexReplaceAll "(?m)= ([0-9]+)\\.0$" (toToml .) "= ${1}" | trim -}}
{{- end -}}
