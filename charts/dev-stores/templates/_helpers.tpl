{{/* The helpers below that concern one store take a list of the root context and the store's name. */}}

{{- define "dev-stores.name" -}}
{{- $root := index . 0 -}}
{{- printf "%s-%s" (trunc 45 $root.Release.Name | trimSuffix "-") (index . 1) -}}
{{- end -}}

{{/* The name by which pods in any namespace reach a store. */}}
{{- define "dev-stores.host" -}}
{{- $root := index . 0 -}}
{{- printf "%s.%s.svc" (include "dev-stores.name" .) $root.Release.Namespace -}}
{{- end -}}

{{/* What a StatefulSet selects its pod by; never changes. */}}
{{- define "dev-stores.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: dev-stores
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "dev-stores.labels" -}}
{{- $root := index . 0 -}}
{{ include "dev-stores.selector" . }}
app.kubernetes.io/part-of: commerce-pipeline
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
A password that stays: the one in the Secret if it is there, else a new one. Takes the root context, the Secret's name and the key.
Without a cluster, as in `helm template`, every rendering has a new one.
*/}}
{{- define "dev-stores.password" -}}
{{- $root := index . 0 -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 1) | default dict -}}
{{- $data := $secret.data | default dict -}}
{{- with index $data (index . 2) -}}{{ b64dec . }}{{- else -}}{{ randAlphaNum 32 }}{{- end -}}
{{- end -}}

{{/*
The certificate of a store, its key and its authority, as the data of a Secret of type kubernetes.io/tls: those in the Secret if it is there,
else new ones. Takes the root context, the store's name and the Secret's name.
*/}}
{{- define "dev-stores.certificate" -}}
{{- $root := index . 0 -}}
{{- $name := include "dev-stores.name" . -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 2) | default dict -}}
{{- if $secret.data -}}
{{- toYaml $secret.data -}}
{{- else -}}
{{- $host := include "dev-stores.host" . -}}
{{- $names := list $name (printf "%s.%s" $name $root.Release.Namespace) $host (printf "%s.cluster.local" $host) "localhost" -}}
{{- $ca := genCA (printf "%s-ca" $name) 3650 -}}
{{- $certificate := genSignedCertWithKey $name (list "127.0.0.1") $names 3650 $ca (genPrivateKey "ecdsa") -}}
ca.crt: {{ $ca.Cert | b64enc }}
tls.crt: {{ $certificate.Cert | b64enc }}
tls.key: {{ $certificate.Key | b64enc }}
{{- end -}}
{{- end -}}

{{/* A Secret with a certificate. Takes the root context, the store's name, the Secret's name, its data and, optionally, its type. */}}
{{- define "dev-stores.certificateSecret" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "dev-stores.labels" . | nindent 4 }}
type: {{ if gt (len .) 4 }}{{ index . 4 }}{{ else }}Opaque{{ end }}
data:
  {{- toYaml (index . 3) | nindent 2 }}
{{- end -}}

{{/* The volume lives on when the release is uninstalled, and the password in it with it. So the Secret is kept as well. */}}
{{- define "dev-stores.secretMetadata" -}}
{{- $root := index . 0 -}}
name: {{ include "dev-stores.name" . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "dev-stores.labels" . | nindent 2 }}
annotations:
  helm.sh/resource-policy: keep
{{- end -}}

{{/* A Service with one port. Takes the root context, the store's name and the port. */}}
{{- define "dev-stores.service" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "dev-stores.name" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "dev-stores.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "dev-stores.selector" . | nindent 4 }}
  ports:
    - name: {{ index . 1 }}
      port: {{ index . 2 }}
      targetPort: {{ index . 1 }}
{{- end -}}

{{/* What all four StatefulSets have in common, but for their pod's containers and volumes. */}}
{{- define "dev-stores.statefulSet" -}}
serviceName: {{ include "dev-stores.name" . }}
replicas: 1
selector:
  matchLabels:
    {{- include "dev-stores.selector" . | nindent 4 }}
{{- end -}}

{{- define "dev-stores.volumeClaim" -}}
{{- $root := index . 0 -}}
volumeClaimTemplates:
  - metadata:
      name: data
      labels:
        {{- include "dev-stores.selector" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $root.Values.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ index $root.Values (index . 1) "storage" }}
{{- end -}}

{{/* The head of a pod's spec. Takes the root context, the store's name and the id of its user, the same as in the official image. */}}
{{- define "dev-stores.pod" -}}
{{- $root := index . 0 -}}
{{- $user := index . 2 -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 60
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $user }}
  runAsGroup: {{ $user }}
  fsGroup: {{ $user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The head of a container of a store. */}}
{{- define "dev-stores.container" -}}
{{- $root := index . 0 -}}
{{- $store := index . 1 -}}
image: {{ index $root.Values.images $store }}
imagePullPolicy: {{ $root.Values.images.pullPolicy }}
resources:
  {{- toYaml (index $root.Values $store "resources") | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}
