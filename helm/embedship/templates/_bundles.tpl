{{- /* Renders a template once for the release's bundle, or once per entry of `bundles`, with that entry's values on top. */ -}}
{{- define "embedship.each" -}}
{{- $root := .root -}}
{{- $template := .template -}}
{{- if $root.Values.bundles -}}
{{- range $name, $own := $root.Values.bundles }}
{{- /* All entries share one auth map; otherwise each entry would generate its own API keys. */}}
{{- $values := set (mergeOverwrite (deepCopy $root.Values) (default dict $own)) "auth" $root.Values.auth }}
---
{{ include $template (dict "Values" $values "bundle" $name "Chart" $root.Chart "Release" $root.Release "Capabilities" $root.Capabilities "Template" $root.Template) }}
{{- end -}}
{{- else -}}
{{ include $template $root }}
{{- end -}}
{{- end -}}
