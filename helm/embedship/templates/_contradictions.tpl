{{- /* What the schema cannot see: each is one sentence with the cure. */ -}}
{{- define "embedship.contradictions" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository is empty, and no image is published: build one from helm/images/, push it, and name it (registry.example/team/embedship)." -}}
{{- end -}}
{{- if and (include "embedship.exposed" .) (not (include "embedship.secret" .)) (not $v.auth.allowAnonymous) -}}
{{- fail "ingress, httpRoute or service.type lets requests in from outside the cluster, and no API key is asked for: set auth.create or auth.existingSecret, or auth.allowAnonymous where that is meant." -}}
{{- end -}}
{{- if and (ne $v.service.type "ClusterIP") $v.networkPolicy.enabled (not $v.networkPolicy.serviceFrom) -}}
{{- fail (printf "service.type is %s, but the NetworkPolicy lets nobody in from outside: name who may ask in networkPolicy.serviceFrom, for example {ipBlock: {cidr: 10.0.0.0/8}}. Pods see clients' own addresses with service.externalTrafficPolicy Local, else those of nodes." $v.service.type) -}}
{{- end -}}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") -}}
{{- fail "service.nodePort is for a Service of type NodePort or LoadBalancer, and service.type is ClusterIP: set the type, or leave the port 0." -}}
{{- end -}}
{{- if and $v.service.externalTrafficPolicy (eq $v.service.type "ClusterIP") -}}
{{- fail "service.externalTrafficPolicy is for a Service of type NodePort or LoadBalancer, and service.type is ClusterIP: set the type, or leave it empty." -}}
{{- end -}}
{{- if and (or $v.service.loadBalancerClass $v.service.loadBalancerSourceRanges) (ne $v.service.type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass and service.loadBalancerSourceRanges are for a Service of type LoadBalancer, and service.type is %s: set the type, or leave them empty." $v.service.type) -}}
{{- end -}}
{{- if and $v.service.trafficDistribution (not (semverCompare ">=1.31.0-0" .Capabilities.KubeVersion.Version)) -}}
{{- fail (printf "service.trafficDistribution is set, but Kubernetes %s has no such field (1.31 has): leave it empty." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if include "embedship.writable" . -}}
{{- if or (gt ($v.replicas | int) 1) $v.autoscaling.enabled -}}
{{- fail "server.writable is true, and one process writes an index: set replicas to 1 and autoscaling.enabled to false." -}}
{{- end -}}
{{- if and $v.canary.enabled (not $v.canary.index.claimName) -}}
{{- fail "server.writable is true, and the canary would write the same index: give it one of its own in canary.index.claimName." -}}
{{- end -}}
{{- if not $v.index.path -}}
{{- fail "server.writable is true, but index.path is empty: name a folder inside the claim, for INDEX.live is made beside it." -}}
{{- end -}}
{{- if and $v.strategy (ne (default "" $v.strategy.type) "Recreate") -}}
{{- fail "server.writable is true, and one process writes an index: a pod that is started before the old one ended could not open it. Leave strategy empty, or set its type to Recreate." -}}
{{- end -}}
{{- end -}}
{{- if and $v.server.writable (not $v.index.enabled) -}}
{{- fail "server.writable is true, but index.enabled is false: there is no index to write to." -}}
{{- end -}}
{{- if ge ($v.drain.preStopSeconds | int) ($v.drain.seconds | int) -}}
{{- fail (printf "drain.preStopSeconds is %v, and the whole drain is %v: leave time for answers." $v.drain.preStopSeconds $v.drain.seconds) -}}
{{- end -}}
{{- if and $v.canary.enabled $v.canary.weight $v.ingress.enabled (not (include "embedship.nginx" .)) -}}
{{- fail (printf "canary.weight through an Ingress is an annotation that ingress-nginx alone reads, and ingress.className is %q: use httpRoute, or say with canary.nginx that the controller is ingress-nginx." $v.ingress.className) -}}
{{- end -}}
{{- if and $v.auth.write.create $v.auth.write.existingSecret -}}
{{- fail "auth.write.create and auth.write.existingSecret exclude one another: unset one." -}}
{{- end -}}
{{- if and $v.bulkRay.enabled (not $v.networkPolicy.enabled) (not $v.bulkRay.token) -}}
{{- fail "bulkRay without networkPolicy.enabled and without bulkRay.token: whoever reaches the head of a Ray cluster runs code in it. Enable one of them." -}}
{{- end -}}
{{- $s3 := and (eq $v.bundle.source "s3") (include "embedship.pulled" .) -}}
{{- if $v.fetch.enabled -}}{{- range $v.fetch.bundles -}}{{- if hasPrefix "s3://" .url -}}{{- $s3 = true -}}{{- end -}}{{- end -}}{{- end -}}
{{- if and $s3 (or $v.bundle.pull.ca.configMap $v.bundle.pull.ca.secret) -}}
{{- fail "bundle.pull.ca is for oci, http and hf: the client of S3 trusts public authorities only. Leave it empty, or fetch from one of those." -}}
{{- end -}}
{{- if and $v.bundle.pull.ca.configMap $v.bundle.pull.ca.secret -}}
{{- fail "bundle.pull.ca.configMap and bundle.pull.ca.secret exclude one another: unset one." -}}
{{- end -}}
{{- if $v.fetch.enabled -}}
{{- if not $v.fetch.claim.name -}}
{{- fail "fetch.enabled is true, but fetch.claim.name is empty: name the claim that takes the bundles." -}}
{{- end -}}
{{- if not $v.fetch.bundles -}}
{{- fail "fetch.enabled is true, but fetch.bundles is empty: name what to fetch by url, digest and folder." -}}
{{- end -}}
{{- $schemes := dict -}}
{{- range $v.fetch.bundles -}}{{- $_ := set $schemes (splitList "://" .url | first | replace "https" "http") true -}}{{- end -}}
{{- if and $v.bundle.pull.secret (gt (len $schemes) 1) -}}
{{- fail (printf "fetch.bundles come from sources of several kinds (%s), and bundle.pull.secret is for one: fetch them from one kind." (keys $schemes | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.fetch.egress) -}}
{{- fail "fetch.enabled is true, but its NetworkPolicy lets the Job reach nothing: name where the bundles lie in fetch.egress." -}}
{{- end -}}
{{- if $v.bundles -}}
{{- fail "fetch fills one claim for one release: with bundles, fetch in a release of its own." -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.bundle.source "pvc") (not $v.bundle.pvc.claimName) -}}
{{- fail "bundle.source is pvc, but bundle.pvc.claimName is empty: name the claim that holds the bundle." -}}
{{- end -}}
{{- if and (eq $v.bundle.source "baked") (not (hasPrefix "/" $v.bundle.path)) -}}
{{- fail "bundle.source is baked, but bundle.path is no absolute path: say where the image holds the bundle." -}}
{{- end -}}
{{- if eq $v.bundle.source "image" -}}
{{- if not $v.bundle.image.reference -}}
{{- fail "bundle.source is image, but bundle.image.reference is empty: name the image that holds the bundle." -}}
{{- end -}}
{{- if not (semverCompare ">=1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "bundle.source is image, but Kubernetes %s has no image volumes (1.31 has): take bundle.source=pvc or baked." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and $v.bundles $v.canary.enabled -}}
{{- fail "canary is for a release of one bundle, and bundles names several: give the one that changes a release of its own, or run it as another entry of bundles." -}}
{{- end -}}
{{- if and $v.bundles (or $v.ingress.enabled $v.httpRoute.enabled) -}}
{{- $seen := dict -}}
{{- range $name, $own := $v.bundles -}}
{{- $each := mergeOverwrite (deepCopy $v) (default dict $own) -}}
{{- $place := list $each.ingress.host $each.ingress.path $each.httpRoute.hostnames $each.httpRoute.path | toJson -}}
{{- if hasKey $seen $place -}}
{{- fail (printf "bundles.%s and bundles.%s answer at one address: give each an ingress.host or httpRoute.hostnames of its own." (get $seen $place) $name) -}}
{{- end -}}
{{- $_ := set $seen $place $name -}}
{{- end -}}
{{- end -}}
{{- if include "embedship.pulled" . -}}
{{- $source := $v.bundle.source -}}
{{- $scheme := get (include "embedship.schemes" . | fromYaml) $source -}}
{{- if not (hasPrefix $scheme $v.bundle.pull.url) -}}
{{- fail (printf "bundle.source is %s, but bundle.pull.url is %q: give an address that begins with %s." $source $v.bundle.pull.url $scheme) -}}
{{- end -}}
{{- if not $v.bundle.pull.digest -}}
{{- fail (printf "bundle.source is %s, but bundle.pull.digest is empty: pin the bundle by the digest that `embedship push` prints." $source) -}}
{{- end -}}
{{- if $v.bundle.path -}}
{{- fail (printf "bundle.source is %s, and all that is fetched is the bundle: leave bundle.path empty." $source) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail (printf "bundle.source is %s, but the NetworkPolicy lets no pod reach it: set networkPolicy.offline to false, and name where it lies in networkPolicy.egress." $source) -}}
{{- end -}}
{{- if and $v.canary.enabled (or $v.canary.bundle.path $v.canary.bundle.claimName $v.canary.bundle.image) -}}
{{- fail (printf "bundle.source is %s, but the canary's bundle is said by a path, claim or image: give canary.bundle.url and canary.bundle.digest." $source) -}}
{{- end -}}
{{- end -}}
{{- if and $v.canary.enabled $v.canary.bundle.url (not $v.canary.bundle.digest) -}}
{{- fail "canary.bundle.url is set, but canary.bundle.digest is empty: pin the new bundle by the digest that `embedship push` prints." -}}
{{- end -}}
{{- if $v.canary.enabled -}}
{{- range $key, $source := dict "claimName" "pvc" "image" "image" -}}
{{- if and (get $v.canary.bundle $key) (ne $v.bundle.source $source) -}}
{{- fail (printf "canary.bundle.%s is for bundle.source %s, and it is %s: the canary would run the old bundle, and be found as good as that." $key $source $v.bundle.source) -}}
{{- end -}}
{{- end -}}
{{- if and (or $v.canary.bundle.url $v.canary.bundle.digest) (not (include "embedship.pulled" .)) -}}
{{- fail (printf "canary.bundle.url and canary.bundle.digest are for a bundle that is fetched, and bundle.source is %s: the canary would run the old bundle, and be found as good as that." $v.bundle.source) -}}
{{- end -}}
{{- end -}}
{{- if contains ".." (printf "%s %s %s" $v.bundle.path $v.index.path $v.reranker.path) -}}
{{- fail "bundle.path, index.path and reranker.path may not contain '..': they lie inside their volume." -}}
{{- end -}}
{{- if and $v.index.enabled (not $v.index.claimName) (not $v.index.milvus.address) -}}
{{- fail "index.enabled is true, but index.claimName is empty: name the claim that holds the index, or the collection in index.milvus.address." -}}
{{- end -}}
{{- if and $v.index.enabled $v.index.milvus.address -}}
{{- if or $v.index.claimName $v.index.path -}}
{{- fail "index.milvus.address and index.claimName exclude one another: the index lies in Milvus or on a claim." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail "index.milvus.address is set, but the NetworkPolicy lets no pod reach it: set networkPolicy.offline to false, and name where it lies in networkPolicy.egress." -}}
{{- end -}}
{{- if and $v.canary.enabled (or $v.canary.index.claimName $v.canary.index.path) -}}
{{- fail "canary.index names a claim, and the index lies in Milvus: the canary would search the old collection." -}}
{{- end -}}
{{- end -}}
{{- if and $v.reranker.enabled (not $v.reranker.claimName) -}}
{{- fail "reranker.enabled is true, but reranker.claimName is empty: name the claim that holds its bundle." -}}
{{- end -}}
{{- if and $v.gpu.enabled (not (regexMatch "cuda|tensorrt|gpu" (default "auto" $v.server.devices))) -}}
{{- fail (printf "gpu.enabled takes a GPU, but with server.devices %s the server runs on the CPU: set server.devices: cuda:0, or one device for each of gpu.count." (default "auto" $v.server.devices)) -}}
{{- end -}}
{{- if and $v.auth.create $v.auth.existingSecret -}}
{{- fail "auth.create and auth.existingSecret exclude one another: unset one." -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt ($v.autoscaling.minReplicas | int) ($v.autoscaling.maxReplicas | int) -}}
{{- fail (printf "autoscaling.minReplicas is %v, above autoscaling.maxReplicas %v: lower one or raise the other." $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.keda.prometheus) -}}
{{- fail "autoscaling.kind is keda, but autoscaling.keda.prometheus is empty: give the address of Prometheus." -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true, but httpRoute.parentRefs is empty: name the Gateway." -}}
{{- end -}}
{{- if and $v.ingress.tlsSecret (not $v.ingress.host) -}}
{{- fail "ingress.tlsSecret is set, but ingress.host is empty: a certificate is for a host." -}}
{{- end -}}
{{- if and $v.driftReport.enabled (not $v.driftReport.claimName) -}}
{{- fail "driftReport.enabled is true, but driftReport.claimName is empty: name the claim that holds the log." -}}
{{- end -}}
{{- if and (include "embedship.ownPort" .) (eq ($v.service.port | int) (include "embedship.metricsPort" . | int)) -}}
{{- fail (printf "/metrics takes port %s of the Service (metrics.ownPort), and so does service.port: give the latter another one." (include "embedship.metricsPort" .)) -}}
{{- end -}}
{{- if and $v.auth.admin.create $v.auth.admin.existingSecret -}}
{{- fail "auth.admin.create and auth.admin.existingSecret exclude one another: unset one." -}}
{{- end -}}
{{- if $v.canary.enabled -}}
{{- if contains ".." (printf "%s %s" $v.canary.bundle.path $v.canary.index.path) -}}
{{- fail "canary.bundle.path and canary.index.path may not contain '..': they lie inside their volume." -}}
{{- end -}}
{{- if and (or $v.canary.index.claimName $v.canary.index.path) (not $v.index.enabled) -}}
{{- fail "canary.index names an index, but index.enabled is false: the canary would have none." -}}
{{- end -}}
{{- if not $v.canary.compare.claimName -}}
{{- fail "canary.enabled is true, but canary.compare.claimName is empty: name the claim that holds real queries, by which `helm test` compares both servers before any weight moves." -}}
{{- end -}}
{{- if and $v.canary.weight (not (or $v.httpRoute.enabled $v.ingress.enabled)) -}}
{{- fail "canary.weight sends a share of the requests, but neither httpRoute nor ingress is enabled, and a Service has no weights: enable one, or leave the weight 0." -}}
{{- end -}}
{{- $new := dict "Chart" .Chart "Values" (deepCopy $v) -}}
{{- include "embedship.renewed" (dict "values" $new.Values "given" $v.canary) -}}
{{- $old := list $v.bundle $v.index (include "embedship.image" .) -}}
{{- if eq (toJson $old) (list $new.Values.bundle $new.Values.index (include "embedship.image" $new) | toJson) -}}
{{- fail "canary.enabled is true, but the canary's bundle, index and image are the release's own, and a server is always as good as its twin: name what is new in canary.bundle, canary.index or canary.image (the fingerprint alone is an annotation), or set canary.enabled to false." -}}
{{- end -}}
{{- end -}}
{{- if $v.backup.enabled -}}
{{- if not $v.backup.claimName -}}
{{- fail "backup.enabled is true, but backup.claimName is empty: name the claim that takes the copies." -}}
{{- end -}}
{{- if not $v.backup.claims -}}
{{- fail "backup.enabled is true, but backup.claims is empty: name the claims to copy." -}}
{{- end -}}
{{- if has $v.backup.claimName $v.backup.claims -}}
{{- fail (printf "backup.claims names %s, which is backup.claimName: a claim is not copied into itself." $v.backup.claimName) -}}
{{- end -}}
{{- end -}}
{{- if $v.bulkRay.enabled -}}
{{- range $key, $what := dict "claimName" "the claim that takes the vectors" "image" "an image with embedship and Ray" "source" "the file of texts" -}}
{{- if not (get $v.bulkRay $key) -}}
{{- fail (printf "bulkRay.enabled is true, but bulkRay.%s is empty: name %s." $key $what) -}}
{{- end -}}
{{- end -}}
{{- if $v.bundles -}}
{{- fail "bulkRay encodes with one bundle, and bundles names several: give it a release of its own." -}}
{{- end -}}
{{- if and (hasPrefix "s3://" $v.bulkRay.source) $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail "bulkRay.source lies in S3, but the NetworkPolicy lets no pod reach it: set networkPolicy.offline to false, and name where it lies in networkPolicy.egress." -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.offline $v.networkPolicy.egress -}}
{{- fail "networkPolicy.offline lets nothing out, but networkPolicy.egress names peers: set offline to false, or empty egress." -}}
{{- end -}}
{{- end -}}
