{{- define "pgoutbox.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "pgoutbox.fullname" -}}
{{- $name := include "pgoutbox.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pgoutbox.selector" -}}
app.kubernetes.io/name: {{ include "pgoutbox.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pgoutbox.labels" -}}
{{ include "pgoutbox.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* What the containers of relay and install have in common; takes a list: root, arguments,
     database. */}}
{{- define "pgoutbox.container" -}}
{{- $root := index . 0 -}}
{{- $arguments := index . 1 -}}
{{- $database := index . 2 -}}
{{- with $root.Values -}}
image: {{ printf "%s:%s" .image.repository (.image.tag | default $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
args: {{ $arguments | toJson }}
env:
  {{- if $database.secret }}
  - name: DATABASE_URL
    valueFrom:
      secretKeyRef: {name: {{ $database.secret }}, key: {{ $database.key }}}
  {{- end }}
  {{- if .nats.url }}
  - {name: PGOUTBOX_NATS_URL, value: {{ .nats.url | quote }}}
  {{- end }}
  {{- if or .config .configSecret }}
  - {name: PGOUTBOX_CONFIG, value: /etc/pgoutbox/config.yml}
  {{- end }}
  - {name: PGOUTBOX_HEALTH_ADDR, value: ":8080"}
  - {name: PGOUTBOX_METRICS_ADDR, value: ":2112"}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
resources: {{- toYaml .resources | nindent 2 }}
securityContext: {{- toYaml .securityContext | nindent 2 }}
{{- if or .config .configSecret .volumeMounts }}
volumeMounts:
  {{- if or .config .configSecret }}
  - {name: config, mountPath: /etc/pgoutbox, readOnly: true}
  {{- end }}
  {{- with .volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What their pods have in common; takes a list: root, name of the ConfigMap. */}}
{{- define "pgoutbox.pod" -}}
{{- $configMap := index . 1 -}}
{{- with (index . 0).Values -}}
automountServiceAccountToken: false
{{- with .serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- toYaml .podSecurityContext | nindent 2 }}
{{- if or .config .configSecret .volumes }}
volumes:
  {{- if .configSecret }}
  - name: config
    secret: {secretName: {{ .configSecret }}}
  {{- else if .config }}
  - name: config
    configMap: {name: {{ $configMap }}}
  {{- end }}
  {{- with .volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}
