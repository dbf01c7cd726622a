{{- /* What one bundle needs, made once for the release's own, or once for each of `bundles`, whose values win there. */ -}}
{{- define "embedship.each" -}}
{{- $root := .root -}}
{{- $template := .template -}}
{{- if $root.Values.bundles -}}
{{- /* One key for all of them: made before the values are copied. */ -}}
{{- if and $root.Values.auth.create (not $root.Values.auth.existingSecret) }}{{ $_ := include "embedship.keys" $root }}{{ end -}}
{{- if and $root.Values.auth.admin.create (not $root.Values.auth.admin.existingSecret) }}{{ $_ := include "embedship.adminKeys" $root }}{{ end -}}
{{- range $name, $own := $root.Values.bundles }}
---
{{ include $template (dict "Values" (mergeOverwrite (deepCopy $root.Values) (default dict $own)) "bundle" $name "Chart" $root.Chart "Release" $root.Release "Capabilities" $root.Capabilities "Template" $root.Template) }}
{{- end -}}
{{- else -}}
{{ include $template $root }}
{{- end -}}
{{- end -}}
