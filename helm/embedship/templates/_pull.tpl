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

{{- /* Ends when the bundle is whole and verified; started again, it goes on where it was stopped.
Its folder has the digest's name: what is replaced there is a damaged copy, which would stop every pod to come. */ -}}
{{- define "embedship.pull" -}}
{{- if include "embedship.pulled" . }}
{{- $pull := .Values.bundle.pull }}
initContainers:
  - name: pull
    {{- include "embedship.container" . | nindent 4 }}
    command: [embedship]
    args:
      - pull
      - {{ $pull.url | quote }}
      - --out
      - {{ include "embedship.pulledTo" . }}
      - --digest
      - {{ $pull.digest | quote }}
      - --force
      {{- if $pull.plainHttp }}
      - --plain-http
      {{- end }}
    env:
      - {name: HOME, value: /tmp}
      {{- if and $pull.secret (eq .Values.bundle.source "oci") }}
      - {name: DOCKER_CONFIG, value: /credentials}
      {{- end }}
      {{- range $name, $value := $pull.env }}
      - {name: {{ $name | quote }}, value: {{ $value | quote }}}
      {{- end }}
    {{- if and $pull.secret (ne .Values.bundle.source "oci") }}
    envFrom:
      - secretRef: {name: {{ $pull.secret | quote }}}
    {{- end }}
    resources: {{- toYaml $pull.resources | nindent 6 }}
    volumeMounts:
      - {name: bundle, mountPath: /bundle}
      - {name: tmp, mountPath: /tmp}
      {{- if and $pull.secret (eq .Values.bundle.source "oci") }}
      - {name: credentials, mountPath: /credentials, readOnly: true}
      {{- end }}
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
{{- if and $pull.secret (eq .Values.bundle.source "oci") }}
- name: credentials
  secret: {secretName: {{ $pull.secret | quote }}, defaultMode: 0440, items: [{key: .dockerconfigjson, path: config.json}]}
{{- end }}
{{- end -}}
