{{- /* The sources that `embedship pull` fetches from, and how their addresses begin. */ -}}
{{- define "embedship.schemes" -}}
{oci: "oci://", s3: "s3://", http: "http", hf: "hf://"}
{{- end -}}

{{- /* Something where the bundle is fetched, nothing where it is mounted as it is. */ -}}
{{- define "embedship.pulled" -}}
{{- if hasKey (include "embedship.schemes" . | fromYaml) .Values.bundle.source -}}yes{{- end -}}
{{- end -}}

{{- /* Named by its digest: on a claim, a new bundle lies beside the one that is still served. */ -}}
{{- define "embedship.pulledTo" -}}
/bundle/{{ .Values.bundle.pull.digest | trimPrefix "sha256:" | trunc 16 }}
{{- end -}}

{{- define "embedship.pullSeconds" -}}
{{- ternary (.Values.bundle.pull.maxSeconds | int) 0 (eq (include "embedship.pulled" .) "yes") -}}
{{- end -}}

{{- /* One `embedship pull`: `name`, `url`, `digest` and `target` say which, `volume` where to; the rest is bundle.pull.
Ends when the bundle is whole and verified; started again, it goes on where it was stopped.
Its folder has the digest's name: what is replaced there is a damaged copy, which would stop every pod to come. */ -}}
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
  resources: {{- toYaml $pull.resources | nindent 4 }}
  volumeMounts:
    - {name: {{ .volume }}, mountPath: /bundle}
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

{{- /* The file that a source's credentials are read from; nothing where they are variables. */ -}}
{{- define "embedship.credentialFile" -}}
{{- if .secret -}}
{{- if hasPrefix "oci://" .url -}}config.json{{- else if hasPrefix "http" .url -}}.netrc{{- end -}}
{{- end -}}
{{- end -}}

{{- define "embedship.pull" -}}
{{- if include "embedship.pulled" . }}
initContainers:
  {{- $pull := .Values.bundle.pull }}
  {{- $said := dict "root" . "name" "pull" "url" $pull.url "digest" $pull.digest "target" (include "embedship.pulledTo" .) "volume" "bundle" }}
  {{- include "embedship.pullContainer" $said | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What `embedship pull` reads besides the source: `url` says which credentials. */ -}}
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
