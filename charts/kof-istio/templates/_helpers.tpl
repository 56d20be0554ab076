{{- define "kof-istio.labels" -}}
app.kubernetes.io/name: kof-istio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "kof-istio.selector" -}}
app: mesh-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kof-istio.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "kof-istio.namespace" -}}
{{- if ne .Release.Namespace "istio-system" -}}
{{- fail (printf "kof-istio must be installed in namespace istio-system, not in %q: helm install -n istio-system --create-namespace ..." .Release.Namespace) -}}
{{- end -}}
istio-system
{{- end }}
