{{- define "commerce-pipeline.name" -}}
{{- default .Release.Name .Values.name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "commerce-pipeline.labels" -}}
app.kubernetes.io/name: commerce-pipeline
app.kubernetes.io/instance: {{ include "commerce-pipeline.name" . }}
app.kubernetes.io/part-of: commerce-pipeline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
