{{- /* What one bundle needs, made once for the release's own, or once for each of `bundles`, whose values win there. */ -}}
{{- define "embedship.each" -}}
{{- $root := .root -}}
{{- $template := .template -}}
{{- if $root.Values.bundles -}}
{{- range $name, $own := $root.Values.bundles }}
{{- /* The keys are shared, or each would make its own. */}}
{{- $values := set (mergeOverwrite (deepCopy $root.Values) (default dict $own)) "auth" $root.Values.auth }}
---
{{ include $template (dict "Values" $values "bundle" $name "Chart" $root.Chart "Release" $root.Release "Capabilities" $root.Capabilities "Template" $root.Template) }}
{{- end -}}
{{- else -}}
{{ include $template $root }}
{{- end -}}
{{- end -}}
