{{- define "embedship.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 40 characters: names of StatefulSet pods, CronJobs and claims add a suffix, and Kubernetes allows 63. */ -}}
{{- define "embedship.base" -}}
{{- $name := include "embedship.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Object name. It ends with the bundle's name for objects of one entry of `bundles`; shared objects and single-bundle releases have no such suffix. */ -}}
{{- define "embedship.fullname" -}}
{{- $base := include "embedship.base" . -}}
{{- if .bundle -}}
{{- printf "%s-%s" ($base | trunc (int (sub 39 (len .bundle))) | trimSuffix "-") .bundle -}}
{{- else -}}
{{- $base -}}
{{- end -}}
{{- end -}}

{{- /* Must never change, because selectors are immutable. */ -}}
{{- define "embedship.selector" -}}
app.kubernetes.io/name: {{ include "embedship.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: {{ default "server" .component }}
{{- with .bundle }}
embedship/bundle: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* Selects every pod that serves requests: the release's servers and the canary. */ -}}
{{- define "embedship.servers" -}}
matchLabels:
  app.kubernetes.io/name: {{ include "embedship.name" . | quote }}
  app.kubernetes.io/instance: {{ .Release.Name | quote }}
  {{- with .bundle }}
  embedship/bundle: {{ . | quote }}
  {{- end }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [server, canary]}
{{- end -}}

{{- /* Versions may contain '+', which labels must not. */ -}}
{{- define "embedship.labels" -}}
{{- $own := dict "app.kubernetes.io/name" (include "embedship.name" .) "app.kubernetes.io/instance" .Release.Name -}}
{{- $_ := set $own "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "_") -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "_") -}}
{{- with .bundle }}{{ $_ := set $own "embedship/bundle" . }}{{ end -}}
{{- mergeOverwrite (deepCopy .Values.commonLabels) $own | toYaml -}}
{{- end -}}

{{- /* `extra`: additional labels for the pods of this component. They cannot override the labels that selectors need. */ -}}
{{- define "embedship.podLabels" -}}
{{- $own := mergeOverwrite (include "embedship.labels" .root | fromYaml) (dict "app.kubernetes.io/component" .component) -}}
{{- mergeOverwrite (deepCopy .extra) $own | toYaml -}}
{{- end -}}

{{- define "embedship.jobMetadata" -}}
labels: {{- include "embedship.podLabels" (dict "root" .root "component" (default "job" .component) "extra" .root.Values.jobs.podLabels) | nindent 2 }}
{{- with .root.Values.jobs.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Annotations of an object: the common ones, overridden by its own (`extra`). */ -}}
{{- define "embedship.annotations" -}}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (default dict .extra) -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "embedship.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "embedship.base" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "embedship.image" -}}
{{- $tag := default (ternary (printf "%s-gpu" .Chart.AppVersion) .Chart.AppVersion .Values.gpu.enabled) .Values.image.tag -}}
{{- $registry := default .Values.image.registry (.Values.global).imageRegistry -}}
{{- $repository := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (ne "" $registry) -}}
{{- with .Values.image.digest -}}
{{ printf "%s@%s" $repository . }}
{{- else -}}
{{ printf "%s:%s" $repository $tag }}
{{- end -}}
{{- end -}}

{{- define "embedship.port" -}}8080{{- end -}}
{{- define "embedship.metricsPort" -}}9090{{- end -}}

{{- /* "yes" if requests can come from outside the cluster, else empty. */ -}}
{{- define "embedship.exposed" -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.service.type "ClusterIP") -}}yes{{- end -}}
{{- end -}}

{{- /* "yes" if requests come through the interceptor of KEDA's HTTP add-on, else empty. */ -}}
{{- define "embedship.httpScaled" -}}
{{- if and .Values.autoscaling.enabled (eq .Values.autoscaling.kind "http") -}}yes{{- end -}}
{{- end -}}

{{- /* Requests and limits of a container. With exclusiveCpus the requests equal the limits, as the kubelet's CPU manager requires. */ -}}
{{- define "embedship.resources" -}}
{{- $requests := ternary .resources.limits .resources.requests .root.Values.exclusiveCpus -}}
{{- with $requests }}
requests: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (default dict .gpu) (default dict .resources.limits) }}
limits: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* "yes" if /metrics has a separate port, else empty. /metrics requires no key, so it must not be on a port that is reachable from outside. */ -}}
{{- define "embedship.ownPort" -}}
{{- if kindIs "invalid" .Values.metrics.ownPort -}}
{{ include "embedship.exposed" . }}
{{- else if .Values.metrics.ownPort -}}
yes
{{- end -}}
{{- end -}}

{{- /* Name of the port for probes and scrapes. */ -}}
{{- define "embedship.watchedPort" -}}
{{- ternary "metrics" "http" (eq (include "embedship.ownPort" .) "yes") -}}
{{- end -}}

{{- /* Path of the bundle in the container. An empty bundle.path means the root of the mount. */ -}}
{{- define "embedship.bundle" -}}
{{- if eq .Values.bundle.source "baked" -}}
{{ .Values.bundle.path }}
{{- else if include "embedship.pulled" . -}}
{{ include "embedship.pulledTo" . }}
{{- else -}}
{{ clean (printf "/bundle/%s" .Values.bundle.path) }}
{{- end -}}
{{- end -}}

{{- define "embedship.secret" -}}
{{- if .Values.auth.existingSecret -}}
{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.create -}}
{{ include "embedship.base" . }}-keys
{{- end -}}
{{- end -}}

{{- define "embedship.adminSecret" -}}
{{- if .Values.auth.admin.existingSecret -}}
{{ .Values.auth.admin.existingSecret }}
{{- else if .Values.auth.admin.create -}}
{{ include "embedship.base" . }}-admin
{{- end -}}
{{- end -}}

{{- define "embedship.keys" -}}
{{ include "embedship.keptKey" (dict "root" . "secret" (include "embedship.secret" .) "auth" .Values.auth) }}
{{- end -}}

{{- define "embedship.adminKeys" -}}
{{ include "embedship.keptKey" (dict "root" . "secret" (include "embedship.adminSecret" .) "auth" .Values.auth.admin) }}
{{- end -}}

{{- /* The existing key, or a new one. It is generated once per rendering because the Secret and the checksum must match. */ -}}
{{- define "embedship.keptKey" -}}
{{- if not (hasKey .auth "made") -}}
{{- $kept := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := default dict (default dict $kept).data -}}
{{- $_ := set .auth "made" (default (printf "%s\n" (randAlphaNum 48) | b64enc) (get $data .auth.key)) -}}
{{- end -}}
{{ .auth.made }}
{{- end -}}

{{- define "embedship.writeSecret" -}}
{{- if .Values.auth.write.existingSecret -}}
{{ .Values.auth.write.existingSecret }}
{{- else if .Values.auth.write.create -}}
{{ include "embedship.base" . }}-write
{{- end -}}
{{- end -}}

{{- define "embedship.writeKeys" -}}
{{ include "embedship.keptKey" (dict "root" . "secret" (include "embedship.writeSecret" .) "auth" .Values.auth.write) }}
{{- end -}}

{{- /* The server reads keys only at startup, so a changed key must change the pod template. This works if Helm may read the Secret. */ -}}
{{- define "embedship.checksum" -}}
{{- if .auth.existingSecret -}}
{{- with (default dict (lookup "v1" "Secret" .root.Release.Namespace .auth.existingSecret)).data -}}
{{- toJson . | sha256sum -}}
{{- end -}}
{{- else if .auth.create -}}
{{- include "embedship.keptKey" . | sha256sum -}}
{{- end -}}
{{- end -}}

{{- /* "yes" if the server writes to its index, else empty. Only one process can open a writable index, so a second replica or a surge pod could not start. */ -}}
{{- define "embedship.writable" -}}
{{- if and .Values.index.enabled .Values.server.writable (not .Values.index.milvus.address) -}}yes{{- end -}}
{{- end -}}

{{- /* Seconds of the preStop sleep, which requires Kubernetes 1.30. Older versions rely on the server's own drain. */ -}}
{{- define "embedship.preStop" -}}
{{- ternary (.Values.drain.preStopSeconds | int) 0 (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{- define "embedship.podSecurity" -}}
{{- $own := dict "runAsNonRoot" true "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if not (kindIs "invalid" .Values.user) -}}
{{- range list "runAsUser" "runAsGroup" "fsGroup" }}{{ $_ := set $own . ($.Values.user | int64) }}{{ end -}}
{{- end -}}
{{- mergeOverwrite $own (deepCopy .Values.podSecurityContext) | toYaml -}}
{{- end -}}

{{- define "embedship.security" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true -}}
{{- $own := merge $own (dict "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault")) -}}
{{- mergeOverwrite $own (deepCopy .Values.containerSecurityContext) | toYaml -}}
{{- end -}}

{{- /* Pod fields shared by every pod of the release. `ownTolerations`: additional tolerations of one pod. */ -}}
{{- define "embedship.pod" -}}
serviceAccountName: {{ include "embedship.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "embedship.podSecurity" . | nindent 2 }}
{{- with concat .Values.image.pullSecrets (default list (.Values.global).imagePullSecrets) }}
imagePullSecrets:
  {{- range . }}
  - name: {{ ternary . (get (ternary dict . (kindIs "string" .)) "name") (kindIs "string" .) | quote }}
  {{- end }}
{{- end }}
{{- range $key := list "schedulerName" "dnsPolicy" }}
{{- with get $.Values $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $key := list "hostAliases" "dnsConfig" }}
{{- with get $.Values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .Values.tolerations (default list .ownTolerations) }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "embedship.container" -}}
image: {{ include "embedship.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext: {{- include "embedship.security" . | nindent 2 }}
{{- end -}}

{{- define "embedship.bundleVolume" -}}
{{- if eq .Values.bundle.source "pvc" }}
- name: bundle
  persistentVolumeClaim: {claimName: {{ .Values.bundle.pvc.claimName | quote }}, readOnly: true}
{{- else if eq .Values.bundle.source "image" }}
- name: bundle
  image: {reference: {{ .Values.bundle.image.reference | quote }}, pullPolicy: {{ .Values.bundle.image.pullPolicy }}}
{{- else if include "embedship.pulled" . }}
{{- include "embedship.pullVolumes" . }}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.tmp.size | quote }}}
{{- with include "embedship.secret" . }}
- name: keys
  secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: {{ $.Values.auth.key | quote }}, path: api-keys}]}
{{- end }}
{{- end -}}

{{- define "embedship.bundleMount" -}}
{{- if ne .Values.bundle.source "baked" }}
- {name: bundle, mountPath: /bundle, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- if include "embedship.secret" . }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- end }}
{{- end -}}

{{- /* Pod that runs `embedship check`: for `helm test` and for the CronJob. */ -}}
{{- define "embedship.checkPod" -}}
{{ include "embedship.pod" . }}
restartPolicy: Never
{{- include "embedship.pull" . }}
containers:
  - name: check
    {{- include "embedship.container" . | nindent 4 }}
    command: [embedship]
    args:
      - check
      - http://{{ include "embedship.fullname" . }}:{{ .Values.service.port }}
      - --bundle
      - {{ include "embedship.bundle" . | quote }}
      {{- if include "embedship.secret" . }}
      - --api-key-file
      - /keys/api-keys
      {{- end }}
    resources: {{- toYaml .Values.check.resources | nindent 6 }}
    volumeMounts: {{- include "embedship.bundleMount" . | nindent 6 }}
volumes: {{- include "embedship.bundleVolume" . | nindent 2 }}
{{- end -}}

{{- /* Pod that sends the same queries to both servers (`embedship compare`): for `helm test` and for the Job of Argo Rollouts. */ -}}
{{- define "embedship.comparePod" -}}
{{- $compare := .root.Values.canary.compare -}}
{{ include "embedship.pod" .root }}
restartPolicy: Never
containers:
  - name: compare
    {{- include "embedship.container" .root | nindent 4 }}
    command: [embedship]
    args:
      - compare
      - {{ .old | quote }}
      - {{ .new | quote }}
      - {{ printf "/queries/%s" $compare.queries | quote }}
      - --min-queries
      - {{ include "embedship.number" $compare.minQueries }}
      {{- if not (kindIs "invalid" $compare.minRecall) }}
      - --min-recall
      - {{ include "embedship.number" $compare.minRecall }}
      {{- end }}
      {{- if not (kindIs "invalid" $compare.maxLatency) }}
      - --max-latency
      - {{ include "embedship.number" $compare.maxLatency }}
      {{- end }}
      {{- if $compare.otherModel }}
      - --other-model
      {{- end }}
      {{- if include "embedship.secret" .root }}
      - --api-key-file
      - /keys/api-keys
      {{- end }}
    resources: {{- toYaml $compare.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: queries, mountPath: /queries, readOnly: true}
      {{- if include "embedship.secret" .root }}
      - {name: keys, mountPath: /keys, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ .root.Values.tmp.size | quote }}}
  - name: queries
    persistentVolumeClaim: {claimName: {{ $compare.claimName | quote }}, readOnly: true}
  {{- with include "embedship.secret" .root }}
  - name: keys
    secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: {{ $.root.Values.auth.key | quote }}, path: api-keys}]}
  {{- end }}
{{- end -}}

{{- define "embedship.number" -}}
{{- /* toJson prints 16777216; a template would print 1.6777216e+07. */ -}}
{{- ternary (toString .) (toJson .) (kindIs "string" .) | quote -}}
{{- end -}}

{{- define "embedship.cron" -}}
{{- $jobs := .Values.jobs -}}
concurrencyPolicy: Forbid
suspend: {{ $jobs.suspend }}
successfulJobsHistoryLimit: {{ $jobs.successfulJobsHistoryLimit }}
failedJobsHistoryLimit: {{ $jobs.failedJobsHistoryLimit }}
startingDeadlineSeconds: {{ $jobs.startingDeadlineSeconds | int64 }}
{{- with $jobs.timeZone }}
timeZone: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "embedship.jobLimits" -}}
{{- if not (kindIs "invalid" .Values.jobs.ttlSecondsAfterFinished) -}}
ttlSecondsAfterFinished: {{ .Values.jobs.ttlSecondsAfterFinished | int64 }}
{{- end -}}
{{- end -}}
