{{- define "embedship.strategy" -}}
{{- if .Values.strategy -}}
{{- toYaml .Values.strategy -}}
{{- else if include "embedship.writable" . -}}
type: Recreate
{{- else -}}
type: RollingUpdate
{{- /* With GPUs a surge pod would wait for the GPU that the old pod still uses. */}}
rollingUpdate:
  maxSurge: {{ ternary 0 1 .Values.gpu.enabled }}
  maxUnavailable: {{ ternary 1 0 .Values.gpu.enabled }}
{{- end -}}
{{- end -}}

{{- /* Spread constraints: over zones and nodes, or the ones from the values. A constraint without labelSelector counts these pods. */ -}}
{{- define "embedship.spread" -}}
{{- $made := list -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" -}}
{{- $made = append $made (dict "topologyKey" . "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "embedship.selector" . | fromYaml)) -}}
{{- $all := list -}}
{{- range default $made .Values.topologySpread.constraints -}}
{{- $all = append $all (merge (deepCopy .) $own) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- /* Pod template of the Deployment and StatefulSet. */ -}}
{{- define "embedship.server" -}}
metadata:
  labels: {{- include "embedship.podLabels" (dict "root" . "component" (default "server" .component) "extra" .Values.podLabels) | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: server
    {{- with .Values.bundle.fingerprint }}
    embedship/fingerprint: {{ . | quote }}
    {{- end }}
    {{- with include "embedship.checksum" (dict "root" . "auth" .Values.auth "secret" (include "embedship.secret" .)) }}
    checksum/keys: {{ . }}
    {{- end }}
    {{- with include "embedship.checksum" (dict "root" . "auth" .Values.auth.admin "secret" (include "embedship.adminSecret" .)) }}
    checksum/admin-keys: {{ . }}
    {{- end }}
    {{- with include "embedship.checksum" (dict "root" . "auth" .Values.auth.write "secret" (include "embedship.writeSecret" .)) }}
    checksum/write-keys: {{ . }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- /* Only servers tolerate the taint of GPU nodes. Jobs use no GPU and must stay off those nodes. */}}
  {{- $own := ternary .Values.gpu.tolerations list .Values.gpu.enabled }}
  {{- include "embedship.pod" (dict "Values" .Values "Chart" .Chart "Release" .Release "ownTolerations" $own) | nindent 2 }}
  terminationGracePeriodSeconds: {{ add .Values.drain.seconds 20 }}
  {{- with default .Values.runtimeClassName (ternary .Values.gpu.runtimeClassName "" .Values.gpu.enabled) }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- if .Values.topologySpread.enabled }}
  topologySpreadConstraints: {{- include "embedship.spread" . | nindent 4 }}
  {{- end }}
  {{- $inits := include "embedship.serverInits" . }}
  {{- with $inits }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.extraInitContainers }}
  {{- if not $inits }}
  initContainers:
  {{- end }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: server
      {{- include "embedship.container" . | nindent 6 }}
      command: [embedship]
      args: [serve, {{ include "embedship.bundle" . | quote }}]
      ports:
        - {name: http, containerPort: {{ include "embedship.port" . }}, protocol: TCP}
        {{- if include "embedship.ownPort" . }}
        - {name: metrics, containerPort: {{ include "embedship.metricsPort" . }}, protocol: TCP}
        {{- end }}
      env:
        - {name: EMBEDSHIP_HOST, value: "0.0.0.0"}
        - {name: EMBEDSHIP_PORT, value: {{ include "embedship.port" . | quote }}}
        {{- if include "embedship.ownPort" . }}
        - {name: EMBEDSHIP_METRICS_PORT, value: {{ include "embedship.metricsPort" . | quote }}}
        {{- end }}
        - {name: EMBEDSHIP_DRAIN_SECONDS, value: {{ sub .Values.drain.seconds (include "embedship.preStop" .) | quote }}}
        - {name: EMBEDSHIP_STATE_DIR, value: /state}
        - {name: EMBEDSHIP_CACHE, value: /cache}
        {{- if .Values.index.enabled }}
        {{- $milvus := .Values.index.milvus }}
        - {name: EMBEDSHIP_INDEX, value: {{ default (clean (printf "/index/%s" .Values.index.path)) $milvus.address | quote }}}
        {{- if and $milvus.address $milvus.secret }}
        - name: EMBEDSHIP_MILVUS_TOKEN
          valueFrom:
            secretKeyRef: {name: {{ $milvus.secret | quote }}, key: token}
        {{- end }}
        {{- end }}
        {{- if .Values.reranker.enabled }}
        - {name: EMBEDSHIP_RERANKER, value: {{ include "embedship.reranker" . | quote }}}
        {{- end }}
        {{- if include "embedship.secret" . }}
        - {name: EMBEDSHIP_API_KEY_FILE, value: /keys/api-keys}
        {{- end }}
        {{- if include "embedship.adminSecret" . }}
        - {name: EMBEDSHIP_ADMIN_KEY_FILE, value: /admin/admin-keys}
        {{- end }}
        {{- if include "embedship.writeSecret" . }}
        - {name: EMBEDSHIP_WRITE_KEY_FILE, value: /write/write-keys}
        {{- end }}
        {{- if .Values.signature.configMap }}
        - {name: EMBEDSHIP_KEY, value: /signature/key.pem}
        {{- end }}
        {{- range $name, $value := .Values.server }}
        {{- if not (kindIs "invalid" $value) }}
        - {name: {{ printf "EMBEDSHIP_%s" (upper $name) | quote }}, value: {{ include "embedship.number" $value }}}
        {{- end }}
        {{- end }}
        {{- range $name, $value := .Values.extraEnv }}
        - {name: {{ $name | quote }}, value: {{ $value | quote }}}
        {{- end }}
        {{- with .Values.extraEnvVars }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if gt (include "embedship.preStop" . | int) 0 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ include "embedship.preStop" . }}}
      {{- end }}
      startupProbe:
        httpGet: {path: /health, port: {{ include "embedship.watchedPort" . }}}
        {{- $period := .Values.probes.startup.periodSeconds | int }}
        failureThreshold: {{ div (add .Values.startup.maxSeconds (sub $period 1)) $period }}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /health, port: {{ include "embedship.watchedPort" . }}}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /ready, port: {{ include "embedship.watchedPort" . }}}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      resources:
        {{- $gpu := ternary (dict .Values.gpu.resource (.Values.gpu.count | int)) dict .Values.gpu.enabled }}
        {{- include "embedship.resources" (dict "root" . "resources" .Values.resources "gpu" $gpu) | nindent 8 }}
      volumeMounts:
        {{- include "embedship.bundleMount" . | nindent 8 }}
        - {name: state, mountPath: /state}
        - {name: cache, mountPath: /cache}
        {{- if include "embedship.adminSecret" . }}
        - {name: admin, mountPath: /admin, readOnly: true}
        {{- end }}
        {{- if include "embedship.writeSecret" . }}
        - {name: write, mountPath: /write, readOnly: true}
        {{- end }}
        {{- if .Values.signature.configMap }}
        - {name: signature, mountPath: /signature, readOnly: true}
        {{- end }}
        {{- if and .Values.index.enabled (not .Values.index.milvus.address) }}
        - {name: index, mountPath: /index, readOnly: {{ ne (include "embedship.writable" .) "yes" }}}
        {{- end }}
        {{- if .Values.reranker.enabled }}
        - {name: reranker, mountPath: /reranker, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "embedship.bundleVolume" . | nindent 4 }}
    {{- with include "embedship.adminSecret" . }}
    - name: admin
      secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: {{ $.Values.auth.admin.key | quote }}, path: admin-keys}]}
    {{- end }}
    {{- with include "embedship.writeSecret" . }}
    - name: write
      secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: {{ $.Values.auth.write.key | quote }}, path: write-keys}]}
    {{- end }}
    {{- with .Values.signature.configMap }}
    - name: signature
      configMap: {name: {{ . | quote }}, items: [{key: {{ $.Values.signature.key | quote }}, path: key.pem}]}
    {{- end }}
    - name: cache
      emptyDir: {sizeLimit: {{ .Values.cache.size | quote }}}
    {{- if eq .Values.kind "Deployment" }}
    - name: state
      emptyDir: {sizeLimit: {{ .Values.state.size | quote }}}
    {{- end }}
    {{- if and .Values.index.enabled (not .Values.index.milvus.address) }}
    - name: index
      persistentVolumeClaim: {claimName: {{ .Values.index.claimName | quote }}, readOnly: {{ ne (include "embedship.writable" .) "yes" }}}
    {{- end }}
    {{- if .Values.reranker.enabled }}
    - name: reranker
      {{- if include "embedship.rerankerPulled" . }}
      emptyDir: {sizeLimit: {{ .Values.bundle.pull.size | quote }}}
      {{- else }}
      persistentVolumeClaim: {claimName: {{ .Values.reranker.claimName | quote }}, readOnly: true}
      {{- end }}
    {{- if and (include "embedship.rerankerPulled" .) (not (include "embedship.pulled" .)) }}
    {{- include "embedship.pullSources" (dict "root" . "url" .Values.reranker.pull.url) | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
