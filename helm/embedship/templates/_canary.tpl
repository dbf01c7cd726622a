{{- /* Overwrites `values` with the canary's own settings from `given`. The fingerprint is only an annotation and is not applied here. */ -}}
{{- define "embedship.renewed" -}}
{{- $values := .values -}}
{{- with .given.bundle.path }}{{ $_ := set $values.bundle "path" . }}{{ end -}}
{{- with .given.bundle.claimName }}{{ $_ := set $values.bundle.pvc "claimName" . }}{{ end -}}
{{- with .given.bundle.image }}{{ $_ := set $values.bundle.image "reference" . }}{{ end -}}
{{- with .given.bundle.url }}{{ $_ := set $values.bundle.pull "url" . }}{{ end -}}
{{- with .given.bundle.digest }}{{ $_ := set $values.bundle.pull "digest" . }}{{ end -}}
{{- with .given.index.path }}{{ $_ := set $values.index "path" . }}{{ end -}}
{{- with .given.index.claimName }}{{ $_ := set $values.index "claimName" . }}{{ end -}}
{{- with .given.image.tag }}{{ $_ := set $values.image "tag" . }}{{ $_ := set $values.image "digest" "" }}{{ end -}}
{{- with .given.image.digest }}{{ $_ := set $values.image "digest" . }}{{ end -}}
{{- end -}}
