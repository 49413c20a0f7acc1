{{/* The name that all objects of a release start with. */}}
{{- define "commerce-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a selector may rest on: never changes during the life of a release. */}}
{{- define "commerce-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "commerce-operator.labels" -}}
{{ include "commerce-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: commerce-pipeline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "commerce-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "commerce-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are served, with commas between them; nothing where all are. */}}
{{- define "commerce-operator.watchNamespaces" -}}
{{- if eq .Values.rbac.scope "namespace" -}}
{{- default (list .Release.Namespace) .Values.rbac.watchNamespaces | uniq | join "," -}}
{{- else if .Values.rbac.watchNamespaces -}}
{{- fail (printf "rbac.watchNamespaces is %s, but rbac.scope is cluster: set rbac.scope=namespace to serve these namespaces only, or leave watchNamespaces empty to serve all" (join ", " .Values.rbac.watchNamespaces)) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do in the namespaces that it serves. The same rules for a ClusterRole and for a Role. */}}
{{- define "commerce-operator.rules" -}}
# The pipelines themselves. patch: adds and removes its finalizer; it never creates or deletes one.
- apiGroups: [commerce.lab]
  resources: [commercepipelines]
  verbs: [get, list, watch, patch]
# Conditions and figures of a pipeline.
- apiGroups: [commerce.lab]
  resources: [commercepipelines/status]
  verbs: [get, patch]
# Owner references with blockOwnerDeletion, where the API server checks the right to set them.
- apiGroups: [commerce.lab]
  resources: [commercepipelines/finalizers]
  verbs: [update]
# The workloads: api, relay and indexer.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# The version of each workload that runs, kept so that a workload which is deleted or edited while a rollout waits is put
# back as it was.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
# The API's Service, and the workloads' own account (which carries no token and no rights).
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# The Jobs that migrate the schema and fill a new index.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# The way in.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
# Scales the API by the CPU that it uses.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Who may connect to the workloads, and where they may connect to.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# The dashboard for Grafana. Only what carries the operator's label is looked at.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
# How Prometheus finds the workloads, and what it is to tell of them; where the cluster has these kinds.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, list, watch, create, patch, delete]
# The way in by a Gateway; where the cluster has this kind.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
# Keeps a replica of each workload through node drains.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# The stores' addresses and passwords that a pipeline refers to, by names that users choose. Only read: the operator
# writes no Secret. list and watch: a changed one rolls the pods that use it.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# Tells in a condition which pod is not ready, and why.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Whether the namespace of a deleted pipeline goes as well, and its stores perhaps with it. In a Role, get is of that
# namespace alone.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# What `kubectl describe` shows. patch: a repeated event is counted, not written again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
