{{- define "kof-istio.labels" -}}
app.kubernetes.io/name: kof-istio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with omit .Values.commonLabels "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "kof-istio.selector" -}}
app: mesh-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kof-istio.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "kof-istio.envoy" -}}
{{ .Values.envoy.repository }}:{{ .Values.envoy.tag }}
{{- with .Values.envoy.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "kof-istio.namespace" -}}
{{- if ne .Release.Namespace "istio-system" -}}
{{- fail (printf "kof-istio must be installed in namespace istio-system, not in %q: helm install -n istio-system --create-namespace ..." .Release.Namespace) -}}
{{- end -}}
istio-system
{{- end }}

{{/* Where pods of the chart run and how they get their image. */}}
{{- define "kof-istio.pod" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{ end }}
{{- with .Values.nodeSelector -}}
nodeSelector: {{- toYaml . | nindent 2 }}
{{ end }}
{{- with .Values.tolerations -}}
tolerations: {{- toYaml . | nindent 2 }}
{{ end }}
{{- with .Values.podSecurityContext -}}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pods that do one thing and end: hooks. No mesh is theirs. */}}
{{- define "kof-istio.hookLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
istio.io/dataplane-mode: none
sidecar.istio.io/inject: "false"
{{- end }}

{{/* What istiod must be told (docs/istio.md); k0rdent puts the cluster's name in. */}}
{{- define "kof-istio.istiod" -}}
{{- with (.Values.defaultMesh.spec.istio | default dict).revision }}
{{- if ne . "default" }}
revision: {{ . }}
{{- end }}
{{- end }}
global:
  meshID: {{ .Values.istio.meshID }}
  network: "{{ `{{ .Cluster.metadata.name }}` }}-network"
  multiCluster:
    clusterName: "{{ `{{ .Cluster.metadata.name }}` }}"
  {{- with .Values.istio.hub }}
  hub: {{ . }}
  {{- end }}
meshConfig:
  trustDomain: {{ .Values.defaultMesh.spec.trustDomain | default "mesh.kof.internal" }}
  defaultConfig:
    proxyMetadata:
      PROXY_CONFIG_XDS_AGENT: "true"
env:
  ISTIO_MULTIROOT_MESH: "true"
seccompProfile:
  type: RuntimeDefault
# istiod must not start before the agent has written what it signs with, or it makes a root of its own. Its own volume of that Secret is
# optional; this one is not, and the kubelet waits for it.
volumes:
  - name: mesh-signer
    secret:
      secretName: cacerts
volumeMounts:
  - name: mesh-signer
    mountPath: /var/run/secrets/mesh-signer
    readOnly: true
{{- end }}

{{- define "kof-istio.gateway" -}}
networkGateway: "{{ `{{ .Cluster.metadata.name }}` }}-network"
labels:
  istio: eastwestgateway
securityContext:
  seccompProfile:
    type: RuntimeDefault
  sysctls:
    - name: net.ipv4.ip_unprivileged_port_start
      value: "0"
{{- with (.Values.defaultMesh.spec.istio | default dict).revision }}
{{- if ne . "default" }}
revision: {{ . }}
{{- end }}
{{- end }}
{{- end }}
