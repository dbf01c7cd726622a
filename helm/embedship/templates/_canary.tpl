{{- /* Overwrites `values` with the canary's own settings from `canary`. The fingerprint is only an annotation and is not applied here. */ -}}
{{- define "embedship.applyCanary" -}}
{{- $values := .values -}}
{{- with .canary.bundle.path }}{{ $_ := set $values.bundle "path" . }}{{ end -}}
{{- with .canary.bundle.claimName }}{{ $_ := set $values.bundle.pvc "claimName" . }}{{ end -}}
{{- with .canary.bundle.image }}{{ $_ := set $values.bundle.image "reference" . }}{{ end -}}
{{- with .canary.bundle.url }}{{ $_ := set $values.bundle.pull "url" . }}{{ end -}}
{{- with .canary.bundle.digest }}{{ $_ := set $values.bundle.pull "digest" . }}{{ end -}}
{{- with .canary.index.path }}{{ $_ := set $values.index "path" . }}{{ end -}}
{{- with .canary.index.claimName }}{{ $_ := set $values.index "claimName" . }}{{ end -}}
{{- with .canary.image.tag }}{{ $_ := set $values.image "tag" . }}{{ $_ := set $values.image "digest" "" }}{{ end -}}
{{- with .canary.image.digest }}{{ $_ := set $values.image "digest" . }}{{ end -}}
{{- end -}}
