{{- /* Sources that `embedship pull` supports, with the prefix of their addresses. */ -}}
{{- define "embedship.schemes" -}}
{oci: "oci://", s3: "s3://", http: "http", hf: "hf://"}
{{- end -}}

{{- /* "yes" if the bundle is downloaded, empty if it is mounted or part of the image. */ -}}
{{- define "embedship.pulled" -}}
{{- if hasKey (include "embedship.schemes" . | fromYaml) .Values.bundle.source -}}yes{{- end -}}
{{- end -}}

{{- /* Download folder, named by the digest, so that a new bundle does not overwrite the one still being served from the same claim. */ -}}
{{- define "embedship.pulledTo" -}}
/bundle/{{ .Values.bundle.pull.digest | trimPrefix "sha256:" | trunc 16 }}{{ with .Values.bundle.pull.variant }}-{{ . }}{{ end }}
{{- end -}}

{{- /* "yes" if the server's pod downloads its re-ranker, else empty. */ -}}
{{- define "embedship.rerankerPulled" -}}
{{- if and .Values.reranker.enabled .Values.reranker.pull.url -}}yes{{- end -}}
{{- end -}}

{{- /* Folder of the re-ranker in the container. */ -}}
{{- define "embedship.reranker" -}}
{{- ternary "/reranker/bundle" (clean (printf "/reranker/%s" .Values.reranker.path)) (eq (include "embedship.rerankerPulled" .) "yes") -}}
{{- end -}}

{{- /* Time of the downloads before a server starts. They run one after the other. */ -}}
{{- define "embedship.pullSeconds" -}}
{{- $downloads := printf "%s%s" (include "embedship.pulled" .) (include "embedship.rerankerPulled" .) -}}
{{- mul (.Values.bundle.pull.maxSeconds | int) (div (len $downloads) (len "yes")) -}}
{{- end -}}

{{- /* Container that runs `embedship pull`. Arguments: `name`, `url`, `digest`, `variant`, `target` folder, `volume` and its `mount`; the rest comes from bundle.pull.
It ends when the bundle is complete and verified. After a restart it resumes the download.
--force replaces only a damaged copy, because the folder is named by the digest. A damaged copy would otherwise stop every later pod. */ -}}
{{- define "embedship.pullContainer" -}}
{{- $pull := .root.Values.bundle.pull -}}
{{- $file := include "embedship.credentialFile" (dict "url" .url "secret" $pull.secret) -}}
- name: {{ .name }}
  {{- include "embedship.container" .root | nindent 2 }}
  command: [embedship]
  args:
    - pull
    - {{ .url | quote }}
    - --out
    - {{ .target | quote }}
    - --digest
    - {{ .digest | quote }}
    - --force
    {{- with .variant }}
    - --variant
    - {{ . | quote }}
    {{- end }}
    {{- if $pull.key.configMap }}
    - --key
    - /key/key.pem
    {{- end }}
    {{- if $pull.plainHttp }}
    - --plain-http
    {{- end }}
  env:
    - {name: HOME, value: /tmp}
    {{- if eq $file "config.json" }}
    - {name: DOCKER_CONFIG, value: /credentials}
    {{- else if eq $file ".netrc" }}
    - {name: NETRC, value: /credentials/.netrc}
    {{- end }}
    {{- if or $pull.ca.configMap $pull.ca.secret }}
    - {name: REQUESTS_CA_BUNDLE, value: /ca/ca.crt}
    {{- end }}
    {{- range $name, $value := $pull.env }}
    - {name: {{ $name | quote }}, value: {{ $value | quote }}}
    {{- end }}
  {{- if and $pull.secret (not $file) }}
  envFrom:
    - secretRef: {name: {{ $pull.secret | quote }}}
  {{- end }}
  resources: {{- include "embedship.resources" (dict "root" .root "resources" $pull.resources) | nindent 4 }}
  volumeMounts:
    - {name: {{ .volume }}, mountPath: {{ default "/bundle" .mount }}}
    - {name: tmp, mountPath: /tmp}
    {{- if $file }}
    - {name: credentials, mountPath: /credentials, readOnly: true}
    {{- end }}
    {{- if or $pull.ca.configMap $pull.ca.secret }}
    - {name: ca, mountPath: /ca, readOnly: true}
    {{- end }}
    {{- if $pull.key.configMap }}
    - {name: key, mountPath: /key, readOnly: true}
    {{- end }}
{{- end -}}

{{- /* Name of the file that contains a source's credentials; empty if the credentials are environment variables. */ -}}
{{- define "embedship.credentialFile" -}}
{{- if .secret -}}
{{- if hasPrefix "oci://" .url -}}config.json{{- else if hasPrefix "http" .url -}}.netrc{{- end -}}
{{- end -}}
{{- end -}}

{{- define "embedship.pull" -}}
{{- if include "embedship.pulled" . }}
initContainers:
  {{- $pull := .Values.bundle.pull }}
  {{- $arguments := dict "root" . "name" "pull" "url" $pull.url "digest" $pull.digest "variant" $pull.variant "target" (include "embedship.pulledTo" .) "volume" "bundle" }}
  {{- include "embedship.pullContainer" $arguments | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Init containers of the server: downloads of the bundle and of the re-ranker. */ -}}
{{- define "embedship.serverInits" -}}
{{- if include "embedship.pulled" . }}
{{- include "embedship.pull" . }}
{{- else if include "embedship.rerankerPulled" . }}
initContainers:
{{- end }}
{{- if include "embedship.rerankerPulled" . }}
  {{- $pull := .Values.reranker.pull }}
  {{- $arguments := dict "root" . "name" "pull-reranker" "url" $pull.url "digest" $pull.digest "variant" $pull.variant "target" (include "embedship.reranker" .) }}
  {{- include "embedship.pullContainer" (mergeOverwrite $arguments (dict "volume" "reranker" "mount" "/reranker")) | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Volumes that `embedship pull` reads: credentials (their form depends on `url`), certificates and the public key. */ -}}
{{- define "embedship.pullSources" -}}
{{- $pull := .root.Values.bundle.pull }}
{{- with include "embedship.credentialFile" (dict "url" .url "secret" $pull.secret) }}
- name: credentials
  secret: {secretName: {{ $pull.secret | quote }}, defaultMode: 0440, items: [{key: {{ ternary ".dockerconfigjson" . (eq . "config.json") | quote }}, path: {{ . | quote }}}]}
{{- end }}
{{- if $pull.ca.secret }}
- name: ca
  secret: {secretName: {{ $pull.ca.secret | quote }}, defaultMode: 0440, items: [{key: {{ $pull.ca.key | quote }}, path: ca.crt}]}
{{- else if $pull.ca.configMap }}
- name: ca
  configMap: {name: {{ $pull.ca.configMap | quote }}, items: [{key: {{ $pull.ca.key | quote }}, path: ca.crt}]}
{{- end }}
{{- if $pull.key.configMap }}
- name: key
  configMap: {name: {{ $pull.key.configMap | quote }}, items: [{key: {{ $pull.key.key | quote }}, path: key.pem}]}
{{- end }}
{{- end -}}

{{- define "embedship.pullVolumes" -}}
{{- $pull := .Values.bundle.pull }}
- name: bundle
  {{- if $pull.claimName }}
  persistentVolumeClaim: {claimName: {{ $pull.claimName | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $pull.size | quote }}}
  {{- end }}
{{- include "embedship.pullSources" (dict "root" . "url" $pull.url) }}
{{- end -}}
