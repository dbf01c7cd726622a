{{- /* The pod template of Deployment and StatefulSet. */ -}}
{{- define "embedship.server" -}}
metadata:
  labels:
    {{- include "embedship.labels" . | nindent 4 }}
    app.kubernetes.io/component: {{ default "server" .component }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: server
    {{- with .Values.bundle.fingerprint }}
    embedship/fingerprint: {{ . | quote }}
    {{- end }}
    {{- if and .Values.auth.create (not .Values.auth.existingSecret) }}
    checksum/keys: {{ include "embedship.keys" . | sha256sum }}
    {{- end }}
    {{- if and .Values.auth.admin.create (not .Values.auth.admin.existingSecret) }}
    checksum/admin-keys: {{ include "embedship.adminKeys" . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- /* No job takes a GPU: what keeps others off those nodes keeps jobs off, too. */}}
  {{- $own := ternary .Values.gpu.tolerations list .Values.gpu.enabled }}
  {{- include "embedship.pod" (dict "Values" .Values "Chart" .Chart "Release" .Release "ownTolerations" $own) | nindent 2 }}
  terminationGracePeriodSeconds: {{ add .Values.drain.seconds 20 }}
  {{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
  runtimeClassName: {{ .Values.gpu.runtimeClassName | quote }}
  {{- end }}
  {{- if .Values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . | quote }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "embedship.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- with include "embedship.pull" . }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: server
      {{- include "embedship.container" . | nindent 6 }}
      command: [embedship]
      args: [serve, {{ include "embedship.bundle" . | quote }}]
      ports:
        - {name: http, containerPort: {{ include "embedship.port" . }}, protocol: TCP}
        {{- if .Values.metrics.ownPort }}
        - {name: metrics, containerPort: {{ include "embedship.metricsPort" . }}, protocol: TCP}
        {{- end }}
      env:
        - {name: EMBEDSHIP_HOST, value: "0.0.0.0"}
        - {name: EMBEDSHIP_PORT, value: {{ include "embedship.port" . | quote }}}
        {{- if .Values.metrics.ownPort }}
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
        - {name: EMBEDSHIP_RERANKER, value: {{ clean (printf "/reranker/%s" .Values.reranker.path) | quote }}}
        {{- end }}
        {{- if include "embedship.secret" . }}
        - {name: EMBEDSHIP_API_KEY_FILE, value: /keys/api-keys}
        {{- end }}
        {{- if include "embedship.adminSecret" . }}
        - {name: EMBEDSHIP_ADMIN_KEY_FILE, value: /admin/admin-keys}
        {{- end }}
        {{- range $name, $value := .Values.server }}
        {{- if not (kindIs "invalid" $value) }}
        - {name: {{ printf "EMBEDSHIP_%s" (upper $name) | quote }}, value: {{ include "embedship.number" $value }}}
        {{- end }}
        {{- end }}
        {{- range $name, $value := .Values.extraEnv }}
        - {name: {{ $name | quote }}, value: {{ $value | quote }}}
        {{- end }}
      {{- if gt (include "embedship.preStop" . | int) 0 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ include "embedship.preStop" . }}}
      {{- end }}
      startupProbe:
        httpGet: {path: /health, port: {{ include "embedship.watchedPort" . }}}
        periodSeconds: 2
        failureThreshold: {{ div (add .Values.startup.maxSeconds 1) 2 }}
        timeoutSeconds: 2
      livenessProbe:
        httpGet: {path: /health, port: {{ include "embedship.watchedPort" . }}}
        periodSeconds: 10
        failureThreshold: 3
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /ready, port: {{ include "embedship.watchedPort" . }}}
        periodSeconds: 2
        failureThreshold: 2
        timeoutSeconds: 2
      resources:
        {{- $gpu := ternary (dict .Values.gpu.resource (.Values.gpu.count | int)) dict .Values.gpu.enabled }}
        {{- with .Values.resources.requests }}
        requests: {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with merge $gpu (default dict .Values.resources.limits) }}
        limits: {{- toYaml . | nindent 10 }}
        {{- end }}
      volumeMounts:
        {{- include "embedship.bundleMount" . | nindent 8 }}
        - {name: state, mountPath: /state}
        - {name: cache, mountPath: /cache}
        {{- if include "embedship.adminSecret" . }}
        - {name: admin, mountPath: /admin, readOnly: true}
        {{- end }}
        {{- if and .Values.index.enabled (not .Values.index.milvus.address) }}
        - {name: index, mountPath: /index, readOnly: true}
        {{- end }}
        {{- if .Values.reranker.enabled }}
        - {name: reranker, mountPath: /reranker, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "embedship.bundleVolume" . | nindent 4 }}
    {{- with include "embedship.adminSecret" . }}
    - name: admin
      secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: {{ $.Values.auth.admin.key | quote }}, path: admin-keys}]}
    {{- end }}
    - name: cache
      emptyDir: {sizeLimit: {{ .Values.cache.size | quote }}}
    {{- if eq .Values.kind "Deployment" }}
    - name: state
      emptyDir: {sizeLimit: {{ .Values.state.size | quote }}}
    {{- end }}
    {{- if and .Values.index.enabled (not .Values.index.milvus.address) }}
    - name: index
      persistentVolumeClaim: {claimName: {{ .Values.index.claimName | quote }}, readOnly: true}
    {{- end }}
    {{- if .Values.reranker.enabled }}
    - name: reranker
      persistentVolumeClaim: {claimName: {{ .Values.reranker.claimName | quote }}, readOnly: true}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
