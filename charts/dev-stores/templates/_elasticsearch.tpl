{{/* The files that replace those of the image's configuration folder. Nobody joins this node, so its transport port is for itself. */}}
{{- define "dev-stores.elasticsearchConfig" -}}
elasticsearch.yml: |
  cluster.name: {{ .Release.Name }}
  node.name: {{ include "dev-stores.name" (list . "elasticsearch") }}
  discovery.type: single-node
  http.host: 0.0.0.0
  transport.host: 127.0.0.1
  readiness.port: 9399
  path.data: /usr/share/elasticsearch/data
  path.logs: /usr/share/elasticsearch/logs
  xpack.security.enabled: true
  xpack.security.http.ssl.enabled: {{ .Values.tls.enabled }}
  {{- if .Values.tls.enabled }}
  xpack.security.http.ssl.certificate: tls.crt
  xpack.security.http.ssl.key: tls.key
  {{- end }}
  # Memory-mapped files need a larger vm.max_map_count than nodes have by default.
  node.store.allow_mmap: false
  {{- range $setting, $value := .Values.elasticsearch.settings }}
  {{ $setting }}: {{ $value | toJson }}
  {{- end }}
jvm.options: |
  -Xms{{ .Values.elasticsearch.heap }}
  -Xmx{{ .Values.elasticsearch.heap }}
  {{- range .Values.elasticsearch.javaOptions }}
  {{ . }}
  {{- end }}
  -Djava.io.tmpdir=${ES_TMPDIR}
  -XX:+ExitOnOutOfMemoryError
  # It fills an index of its own with the built-in roles, which nothing here asks for and which needs more modules.
  -Des.queryable_built_in_roles_enabled=false
  -XX:ErrorFile=/tmp/hs_err_pid%p.log
  20-:--add-modules=jdk.incubator.vector
  -Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1
{{- end -}}
