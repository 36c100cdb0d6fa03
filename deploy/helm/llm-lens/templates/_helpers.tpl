{{- define "llm-lens.name" -}}
{{- contains "llm-lens" .Release.Name | ternary .Release.Name (printf "%s-llm-lens" .Release.Name) | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "llm-lens.selector" -}}
app.kubernetes.io/name: llm-lens
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llm-lens.labels" -}}
{{ include "llm-lens.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Another name than that of the gateways, so that their services do not select it. */}}
{{- define "llm-lens.aggregatorSelector" -}}
app.kubernetes.io/name: llm-lens-aggregator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llm-lens.aggregatorLabels" -}}
{{ include "llm-lens.aggregatorSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "llm-lens.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "llm-lens.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "llm-lens.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Port of an address such as 0.0.0.0:8080. */}}
{{- define "llm-lens.port" -}}
{{ . | splitList ":" | last }}
{{- end -}}

{{/* Port of the first listener. */}}
{{- define "llm-lens.clientPort" -}}
{{ include "llm-lens.port" (first .Values.settings.listeners).address }}
{{- end -}}

{{/* Port of the admin listener. */}}
{{- define "llm-lens.adminPort" -}}
{{ include "llm-lens.port" .Values.settings.admin.address }}
{{- end -}}

{{- define "llm-lens.hasSecret" -}}
{{- if or .Values.secret.existing .Values.secret.values -}}yes{{- end -}}
{{- end -}}

{{/* The pod of a Deployment and of a DaemonSet. */}}
{{- define "llm-lens.pod" -}}
metadata:
  labels:
    {{- include "llm-lens.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations .Values.secret.values }}
  annotations:
    {{- with .Values.secret.values }}
    # Variables are read at the start only.
    checksum/secret: {{ toJson . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "llm-lens.serviceAccount" . }}
  automountServiceAccountToken: {{ .Values.discovery.enabled }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: gateway
      image: {{ include "llm-lens.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [gateway, --config, /etc/llm-lens/settings/gateway.yaml]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      {{- with .Values.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if include "llm-lens.hasSecret" . }}
      envFrom:
        - secretRef: {name: {{ .Values.secret.existing | default (include "llm-lens.name" .) }}}
      {{- end }}
      ports:
        - {name: http, containerPort: {{ include "llm-lens.clientPort" . }}}
        - {name: admin, containerPort: {{ include "llm-lens.adminPort" . }}}
      # Until the first backends have been discovered and key sets are loaded.
      startupProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 1
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 10
        timeoutSeconds: 3
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 3
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        # The folder, and not the file: only then does the kubelet replace the file.
        - {name: settings, mountPath: /etc/llm-lens/settings, readOnly: true}
        - {name: state, mountPath: /var/lib/llm-lens}
        {{- if .Values.tls.secretName }}
        - {name: tls, mountPath: /etc/llm-lens/tls, readOnly: true}
        {{- end }}
  volumes:
    - name: settings
      configMap: {name: {{ include "llm-lens.name" . }}}
    - name: state
      {{- if eq .Values.state.kind "hostPath" }}
      hostPath: {path: {{ .Values.state.hostPath }}, type: Directory}
      {{- else }}
      emptyDir: {sizeLimit: {{ .Values.state.sizeLimit }}}
      {{- end }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
  {{- if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "llm-lens.selector" . | nindent 10 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
