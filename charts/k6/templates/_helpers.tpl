{{/* The Job's name holds the revision: a Job cannot be changed, so that each upgrade is a Job, and a run, of its own. */}}
{{- define "k6.jobName" -}}
{{- printf "%s-%d" (trunc 40 .Release.Name | trimSuffix "-") .Release.Revision -}}
{{- end -}}

{{- define "k6.labels" -}}
app.kubernetes.io/name: k6
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.script }}
app.kubernetes.io/part-of: commerce-pipeline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "k6.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What both containers of the pod may do: nothing but run. */}}
{{- define "k6.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
