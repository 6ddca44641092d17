{{/* What pods of the authority have in common. */}}
{{- define "arx.caSecurityContext" -}}
# As Pod Security's level `restricted` has it.
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.ca.user }}
  runAsGroup: {{ .Values.ca.user }}
  # Whose the volume and the sealing key are.
  fsGroup: {{ .Values.ca.user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "arx.caConfigVolumes" -}}
- name: config
  configMap: {name: {{ include "arx.name" . }}-ca}
- name: seal
  secret:
    secretName: {{ .Values.ca.sealingKey.secretName }}
    defaultMode: 256 # 0400 in octal
    items:
      - {key: {{ .Values.ca.sealingKey.key | quote }}, path: key}
{{- end -}}

{{/* The objects of a kind whose `caBundle` is kept, as JSON: a list of names. */}}
{{- define "arx.caBundles" -}}
{{- $names := list -}}
{{- range .root.Values.publish.caBundles -}}
{{- if eq .kind $.kind -}}{{- $names = append $names .name -}}{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- define "arx.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
