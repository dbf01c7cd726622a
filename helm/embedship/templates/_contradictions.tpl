{{- /* Checks that the values schema cannot express. Each stops rendering with a message that says what to change. */ -}}
{{- define "embedship.contradictions" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository is empty and no image is published: build an image from helm/images/, push it, and set image.repository (example: registry.example/team/embedship)." -}}
{{- end -}}
{{- if and (include "embedship.exposed" .) (not (include "embedship.secret" .)) (not $v.auth.allowAnonymous) -}}
{{- fail "ingress, httpRoute or service.type accepts requests from outside the cluster, but no API key is configured: set auth.create or auth.existingSecret, or set auth.allowAnonymous to accept requests without a key." -}}
{{- end -}}
{{- if and (ne $v.service.type "ClusterIP") $v.networkPolicy.enabled (not $v.networkPolicy.serviceFrom) -}}
{{- fail (printf "service.type is %s, but the NetworkPolicy blocks all clients outside the cluster: list the allowed clients in networkPolicy.serviceFrom, for example {ipBlock: {cidr: 10.0.0.0/8}}. With service.externalTrafficPolicy Local pods see the clients' IP addresses, otherwise those of nodes." $v.service.type) -}}
{{- end -}}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") -}}
{{- fail "service.nodePort requires service.type NodePort or LoadBalancer, but service.type is ClusterIP: change the type, or set service.nodePort to 0." -}}
{{- end -}}
{{- if and $v.service.externalTrafficPolicy (eq $v.service.type "ClusterIP") -}}
{{- fail "service.externalTrafficPolicy requires service.type NodePort or LoadBalancer, but service.type is ClusterIP: change the type, or leave externalTrafficPolicy empty." -}}
{{- end -}}
{{- if and (or $v.service.loadBalancerClass $v.service.loadBalancerSourceRanges) (ne $v.service.type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass and service.loadBalancerSourceRanges require service.type LoadBalancer, but service.type is %s: change the type, or leave both empty." $v.service.type) -}}
{{- end -}}
{{- if and $v.service.trafficDistribution (not (semverCompare ">=1.31.0-0" .Capabilities.KubeVersion.Version)) -}}
{{- fail (printf "service.trafficDistribution is set, but Kubernetes %s does not support it (1.31 or newer is required): leave it empty." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if include "embedship.writable" . -}}
{{- if or (gt ($v.replicas | int) 1) $v.autoscaling.enabled -}}
{{- fail "server.writable is true, and only one process can write an index: set replicas to 1 and autoscaling.enabled to false." -}}
{{- end -}}
{{- if and $v.canary.enabled (not $v.canary.index.claimName) -}}
{{- fail "server.writable is true, and the canary would write to the same index: set canary.index.claimName to a separate claim." -}}
{{- end -}}
{{- if not $v.index.path -}}
{{- fail "server.writable is true, but index.path is empty: set it to a folder inside the claim, because the server creates INDEX.live next to that folder." -}}
{{- end -}}
{{- if and $v.strategy (ne (default "" $v.strategy.type) "Recreate") -}}
{{- fail "server.writable is true, and only one process can open the index: a new pod cannot start before the old one has stopped. Leave strategy empty, or set its type to Recreate." -}}
{{- end -}}
{{- end -}}
{{- if or $v.signature.configMap $v.server.digests -}}
{{- if $v.server.writable -}}
{{- fail "signature.configMap or server.digests is set, but server.writable is true, and changes of documents are not signed: unset one of them." -}}
{{- end -}}
{{- if and $v.index.enabled $v.index.milvus.address -}}
{{- fail "signature.configMap or server.digests is set, but an index in Milvus has no signature: use an index in a claim, or unset them." -}}
{{- end -}}
{{- end -}}
{{- if and $v.server.writable (not $v.index.enabled) -}}
{{- fail "server.writable is true, but index.enabled is false, so there is no index to write to: set index.enabled to true, or server.writable to false." -}}
{{- end -}}
{{- if ge ($v.drain.preStopSeconds | int) ($v.drain.seconds | int) -}}
{{- fail (printf "drain.preStopSeconds is %v, which leaves no time for responses within drain.seconds (%v): set drain.preStopSeconds below drain.seconds." $v.drain.preStopSeconds $v.drain.seconds) -}}
{{- end -}}
{{- if and $v.canary.enabled $v.canary.weight $v.ingress.enabled (not (include "embedship.nginx" .)) -}}
{{- fail (printf "canary.weight is set, but only ingress-nginx supports weights for an Ingress, and ingress.className is %q: use httpRoute, or set canary.nginx to true if the controller is ingress-nginx." $v.ingress.className) -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled are both true, so Prometheus would count everything twice: disable one of them." -}}
{{- end -}}
{{- if and $v.auth.write.create $v.auth.write.existingSecret -}}
{{- fail "auth.write.create and auth.write.existingSecret are mutually exclusive: unset one of them." -}}
{{- end -}}
{{- if and $v.bulkRay.enabled (not $v.networkPolicy.enabled) (not $v.bulkRay.token) -}}
{{- fail "bulkRay is enabled without networkPolicy.enabled and without bulkRay.token, so any client that reaches the Ray head node can run code on it: enable one of them." -}}
{{- end -}}
{{- $s3 := or (and (eq $v.bundle.source "s3") (include "embedship.pulled" .)) (and (include "embedship.rerankerPulled" .) (hasPrefix "s3://" $v.reranker.pull.url)) -}}
{{- if $v.fetch.enabled -}}{{- range $v.fetch.bundles -}}{{- if hasPrefix "s3://" .url -}}{{- $s3 = true -}}{{- end -}}{{- end -}}{{- end -}}
{{- if and $s3 (or $v.bundle.pull.ca.configMap $v.bundle.pull.ca.secret) -}}
{{- fail "bundle.pull.ca is set, but S3 downloads trust public certificate authorities only: leave bundle.pull.ca empty, or use oci, http or hf as the source." -}}
{{- end -}}
{{- if and $v.bundle.pull.ca.configMap $v.bundle.pull.ca.secret -}}
{{- fail "bundle.pull.ca.configMap and bundle.pull.ca.secret are mutually exclusive: unset one of them." -}}
{{- end -}}
{{- if $v.fetch.enabled -}}
{{- if not $v.fetch.claim.name -}}
{{- fail "fetch.enabled is true, but fetch.claim.name is empty: set it to the claim that stores the bundles." -}}
{{- end -}}
{{- if not $v.fetch.bundles -}}
{{- fail "fetch.enabled is true, but fetch.bundles is empty: list the bundles to download, each with url, digest and folder." -}}
{{- end -}}
{{- $schemes := dict -}}
{{- range $v.fetch.bundles -}}{{- $_ := set $schemes (splitList "://" .url | first | replace "https" "http") true -}}{{- end -}}
{{- if and $v.bundle.pull.secret (gt (len $schemes) 1) -}}
{{- fail (printf "fetch.bundles uses several kinds of source (%s), but bundle.pull.secret works for one kind only: use sources of one kind." (keys $schemes | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.fetch.egress) -}}
{{- fail "fetch.enabled is true, but the Job's NetworkPolicy allows no destination: allow the bundle sources in fetch.egress." -}}
{{- end -}}
{{- if $v.bundles -}}
{{- fail "fetch cannot be combined with bundles, because it fills one claim for one release: run fetch in a separate release." -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.bundle.source "pvc") (not $v.bundle.pvc.claimName) -}}
{{- fail "bundle.source is pvc, but bundle.pvc.claimName is empty: set it to the claim that contains the bundle." -}}
{{- end -}}
{{- if and (eq $v.bundle.source "baked") (not (hasPrefix "/" $v.bundle.path)) -}}
{{- fail (printf "bundle.source is baked, but bundle.path is %q, not an absolute path: set it to the bundle's folder in the image." $v.bundle.path) -}}
{{- end -}}
{{- if eq $v.bundle.source "image" -}}
{{- if not $v.bundle.image.reference -}}
{{- fail "bundle.source is image, but bundle.image.reference is empty: set it to the image that contains the bundle." -}}
{{- end -}}
{{- if not (semverCompare ">=1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "bundle.source is image, but Kubernetes %s has no image volumes (1.31 or newer is required): use bundle.source pvc or baked." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and $v.bundles $v.canary.enabled -}}
{{- fail "canary requires a release with one bundle, but bundles has several: move the changing bundle to a separate release, or add the new one as another entry of bundles." -}}
{{- end -}}
{{- if and $v.bundles (or $v.ingress.enabled $v.httpRoute.enabled) -}}
{{- $seen := dict -}}
{{- range $name, $own := $v.bundles -}}
{{- $each := mergeOverwrite (deepCopy $v) (default dict $own) -}}
{{- $route := ternary (list $name) (list $each.httpRoute.hostnames $each.httpRoute.path) $v.httpRoute.combine -}}
{{- $place := list (ternary (list $each.ingress.host $each.ingress.path) list (or $each.ingress.enabled (not $v.httpRoute.combine))) $route | toJson -}}
{{- if hasKey $seen $place -}}
{{- fail (printf "bundles.%s and bundles.%s use the same address: set a different ingress.host or httpRoute.hostnames for each." (get $seen $place) $name) -}}
{{- end -}}
{{- $_ := set $seen $place $name -}}
{{- end -}}
{{- end -}}
{{- if include "embedship.pulled" . -}}
{{- $source := $v.bundle.source -}}
{{- $scheme := get (include "embedship.schemes" . | fromYaml) $source -}}
{{- if not (hasPrefix $scheme $v.bundle.pull.url) -}}
{{- fail (printf "bundle.source is %s, but bundle.pull.url is %q: use an address that begins with %s." $source $v.bundle.pull.url $scheme) -}}
{{- end -}}
{{- if not $v.bundle.pull.digest -}}
{{- fail (printf "bundle.source is %s, but bundle.pull.digest is empty: set it to the digest that `embedship push` prints." $source) -}}
{{- end -}}
{{- if $v.bundle.path -}}
{{- fail (printf "bundle.source is %s, but bundle.path is %q: leave bundle.path empty, because the download is the bundle itself." $source $v.bundle.path) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail (printf "bundle.source is %s, but the NetworkPolicy blocks the download: set networkPolicy.offline to false, and allow the source in networkPolicy.egress." $source) -}}
{{- end -}}
{{- if and $v.canary.enabled (or $v.canary.bundle.path $v.canary.bundle.claimName $v.canary.bundle.image) -}}
{{- fail (printf "bundle.source is %s, but canary.bundle has a path, claimName or image: set canary.bundle.url and canary.bundle.digest instead." $source) -}}
{{- end -}}
{{- end -}}
{{- if and $v.canary.enabled $v.canary.bundle.url (not $v.canary.bundle.digest) -}}
{{- fail "canary.bundle.url is set, but canary.bundle.digest is empty: set it to the digest that `embedship push` prints." -}}
{{- end -}}
{{- if $v.canary.enabled -}}
{{- range $key, $source := dict "claimName" "pvc" "image" "image" -}}
{{- if and (get $v.canary.bundle $key) (ne $v.bundle.source $source) -}}
{{- fail (printf "canary.bundle.%s requires bundle.source %s, but bundle.source is %s: the canary would run the old bundle, and the comparison would always pass." $key $source $v.bundle.source) -}}
{{- end -}}
{{- end -}}
{{- if and (or $v.canary.bundle.url $v.canary.bundle.digest) (not (include "embedship.pulled" .)) -}}
{{- fail (printf "canary.bundle.url and canary.bundle.digest require a downloaded bundle, but bundle.source is %s: the canary would run the old bundle, and the comparison would always pass." $v.bundle.source) -}}
{{- end -}}
{{- end -}}
{{- if contains ".." (printf "%s %s %s" $v.bundle.path $v.index.path $v.reranker.path) -}}
{{- fail "bundle.path, index.path and reranker.path must not contain '..': use a folder inside the volume." -}}
{{- end -}}
{{- if and $v.index.enabled (not $v.index.claimName) (not $v.index.milvus.address) -}}
{{- fail "index.enabled is true, but index.claimName is empty: set it to the claim that contains the index, or set index.milvus.address." -}}
{{- end -}}
{{- if and $v.index.enabled $v.index.milvus.address -}}
{{- if or $v.index.claimName $v.index.path -}}
{{- fail "index.milvus.address and index.claimName (or index.path) are mutually exclusive: the index is either in Milvus or in a claim." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail "index.milvus.address is set, but the NetworkPolicy blocks the connection: set networkPolicy.offline to false, and allow Milvus in networkPolicy.egress." -}}
{{- end -}}
{{- if and $v.canary.enabled (or $v.canary.index.claimName $v.canary.index.path) -}}
{{- fail "canary.index is set, but the index is in Milvus, so the canary would search the old collection: leave canary.index empty." -}}
{{- end -}}
{{- end -}}
{{- if and $v.reranker.enabled (not $v.reranker.claimName) (not $v.reranker.pull.url) -}}
{{- fail "reranker.enabled is true, but reranker.claimName and reranker.pull.url are empty: set the claim that contains the re-ranker bundle, or the address to download it from." -}}
{{- end -}}
{{- if include "embedship.rerankerPulled" . -}}
{{- if or $v.reranker.claimName $v.reranker.path -}}
{{- fail "reranker.pull.url downloads the re-ranker, but reranker.claimName or reranker.path is also set: leave both empty." -}}
{{- end -}}
{{- if not $v.reranker.pull.digest -}}
{{- fail "reranker.pull.url is set, but reranker.pull.digest is empty: set it to the digest that `embedship push` prints." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail "reranker.pull.url is set, but the NetworkPolicy blocks the download: set networkPolicy.offline to false, and allow the source in networkPolicy.egress." -}}
{{- end -}}
{{- $kinds := list (include "embedship.credentialFile" (dict "url" $v.bundle.pull.url "secret" "any")) (include "embedship.credentialFile" (dict "url" $v.reranker.pull.url "secret" "any")) -}}
{{- if and (include "embedship.pulled" .) $v.bundle.pull.secret (ne (first $kinds) (last $kinds)) -}}
{{- fail "bundle.pull.url and reranker.pull.url are different kinds of source, but bundle.pull.secret works for one kind only: use one kind." -}}
{{- end -}}
{{- end -}}
{{- if and (include "embedship.pulled" .) $v.bundle.pull.variant $v.server.variant (ne (default "" $v.server.variant) $v.bundle.pull.variant) -}}
{{- fail (printf "bundle.pull.variant is %s, but server.variant is %s: only the first is downloaded. Set both to the same, or one of them." $v.bundle.pull.variant $v.server.variant) -}}
{{- end -}}
{{- if and $v.gpu.enabled (not (regexMatch "cuda|tensorrt|gpu" (default "auto" $v.server.devices))) -}}
{{- fail (printf "gpu.enabled requests a GPU, but with server.devices %s the server runs on the CPU: set server.devices: cuda:0, or one device per GPU of gpu.count." (default "auto" $v.server.devices)) -}}
{{- end -}}
{{- if and $v.auth.create $v.auth.existingSecret -}}
{{- fail "auth.create and auth.existingSecret are mutually exclusive: unset one of them." -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt ($v.autoscaling.minReplicas | int) ($v.autoscaling.maxReplicas | int) -}}
{{- fail (printf "autoscaling.minReplicas is %v, which is above autoscaling.maxReplicas (%v): lower the minimum or raise the maximum." $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if include "embedship.httpScaled" . -}}
{{- if not $v.autoscaling.http.hosts -}}
{{- fail "autoscaling.kind is http, but autoscaling.http.hosts is empty: set the host names of the requests, by which the interceptor finds this release." -}}
{{- end -}}
{{- if $v.ingress.enabled -}}
{{- fail "autoscaling.kind is http, but an Ingress cannot send requests to the interceptor in another namespace: use httpRoute." -}}
{{- end -}}
{{- if $v.canary.weight -}}
{{- fail "autoscaling.kind is http, and the interceptor sends all requests to one Service: set canary.weight to 0." -}}
{{- end -}}
{{- if $v.inferencePool.enabled -}}
{{- fail "autoscaling.kind is http, so requests go to the interceptor and not to the InferencePool: disable inferencePool, or use autoscaling.kind keda." -}}
{{- end -}}
{{- if and $v.check.schedule (eq ($v.autoscaling.http.minReplicas | int) 0) -}}
{{- fail "check.schedule is set, but the check fails while there are no servers: set autoscaling.http.minReplicas above 0, or leave check.schedule empty." -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.keda.prometheus) -}}
{{- fail "autoscaling.kind is keda, but autoscaling.keda.prometheus is empty: set it to the address of Prometheus." -}}
{{- end -}}
{{- end -}}
{{- if $v.inferencePool.enabled -}}
{{- if not $v.inferencePool.endpointPicker.name -}}
{{- fail "inferencePool.enabled is true, but inferencePool.endpointPicker.name is empty: set it to the Service of the endpoint picker." -}}
{{- end -}}
{{- if $v.canary.enabled -}}
{{- fail "inferencePool cannot be combined with canary, because the weights of an HTTPRoute apply to Services: disable one of them." -}}
{{- end -}}
{{- end -}}
{{- if $v.exclusiveCpus -}}
{{- $cpu := get (default dict $v.resources.limits) "cpu" | toString -}}
{{- if not (regexMatch "^[1-9][0-9]*$" $cpu) -}}
{{- fail (printf "exclusiveCpus is true, but resources.limits.cpu is %q: set a whole number, because the kubelet's CPU manager assigns whole CPUs." $cpu) -}}
{{- end -}}
{{- if not (get $v.resources.limits "memory") -}}
{{- fail "exclusiveCpus is true, but resources.limits.memory is empty: set it, because the quality of service must be Guaranteed." -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true, but httpRoute.parentRefs is empty: add the Gateway." -}}
{{- end -}}
{{- if and $v.ingress.tlsSecret (not $v.ingress.host) -}}
{{- fail "ingress.tlsSecret is set, but ingress.host is empty: set the host of the certificate." -}}
{{- end -}}
{{- if and $v.driftReport.enabled (not $v.driftReport.claimName) -}}
{{- fail "driftReport.enabled is true, but driftReport.claimName is empty: set it to the claim that contains the query log." -}}
{{- end -}}
{{- if and (include "embedship.ownPort" .) (eq ($v.service.port | int) (include "embedship.metricsPort" . | int)) -}}
{{- fail (printf "service.port and the metrics port (metrics.ownPort) are both %s: choose another service.port." (include "embedship.metricsPort" .)) -}}
{{- end -}}
{{- if and $v.auth.admin.create $v.auth.admin.existingSecret -}}
{{- fail "auth.admin.create and auth.admin.existingSecret are mutually exclusive: unset one of them." -}}
{{- end -}}
{{- if $v.canary.enabled -}}
{{- if contains ".." (printf "%s %s" $v.canary.bundle.path $v.canary.index.path) -}}
{{- fail "canary.bundle.path and canary.index.path must not contain '..': use a folder inside the volume." -}}
{{- end -}}
{{- if and (or $v.canary.index.claimName $v.canary.index.path) (not $v.index.enabled) -}}
{{- fail "canary.index is set, but index.enabled is false, so the canary would have no index: set index.enabled to true, or leave canary.index empty." -}}
{{- end -}}
{{- if not $v.canary.compare.claimName -}}
{{- fail "canary.enabled is true, but canary.compare.claimName is empty: set it to the claim that contains real queries. `helm test` uses them to compare both servers before you increase the weight." -}}
{{- end -}}
{{- if and $v.canary.weight (not (or $v.httpRoute.enabled $v.ingress.enabled)) -}}
{{- fail "canary.weight is set, but neither httpRoute nor ingress is enabled, and a Service cannot split requests by weight: enable one of them, or set canary.weight to 0." -}}
{{- end -}}
{{- $new := dict "Chart" .Chart "Values" (deepCopy $v) -}}
{{- include "embedship.applyCanary" (dict "values" $new.Values "canary" $v.canary) -}}
{{- $old := list $v.bundle $v.index (include "embedship.image" .) -}}
{{- if eq (toJson $old) (list $new.Values.bundle $new.Values.index (include "embedship.image" $new) | toJson) -}}
{{- fail "canary.enabled is true, but the canary has the same bundle, index and image as the release, so the comparison would always pass: set canary.bundle, canary.index or canary.image (the fingerprint alone is only an annotation), or set canary.enabled to false." -}}
{{- end -}}
{{- end -}}
{{- if $v.backup.enabled -}}
{{- if not $v.backup.claimName -}}
{{- fail "backup.enabled is true, but backup.claimName is empty: set it to the claim that stores the copies." -}}
{{- end -}}
{{- if not $v.backup.claims -}}
{{- fail "backup.enabled is true, but backup.claims is empty: list the claims to copy." -}}
{{- end -}}
{{- if has $v.backup.claimName $v.backup.claims -}}
{{- fail (printf "backup.claims contains %s, which is also backup.claimName: a claim cannot be copied into itself. Remove it from backup.claims." $v.backup.claimName) -}}
{{- end -}}
{{- end -}}
{{- if $v.bulkRay.enabled -}}
{{- range $key, $what := dict "claimName" "the claim that stores the vectors" "image" "an image with embedship and Ray" "source" "the file of texts" -}}
{{- if not (get $v.bulkRay $key) -}}
{{- fail (printf "bulkRay.enabled is true, but bulkRay.%s is empty: set it to %s." $key $what) -}}
{{- end -}}
{{- end -}}
{{- if $v.bundles -}}
{{- fail "bulkRay requires a release with one bundle, but bundles has several: run bulkRay in a separate release." -}}
{{- end -}}
{{- if and (hasPrefix "s3://" $v.bulkRay.source) $v.networkPolicy.enabled (or $v.networkPolicy.offline (not $v.networkPolicy.egress)) -}}
{{- fail "bulkRay.source is in S3, but the NetworkPolicy blocks the connection: set networkPolicy.offline to false, and allow S3 in networkPolicy.egress." -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.offline $v.networkPolicy.egress -}}
{{- fail "networkPolicy.offline is true, but networkPolicy.egress allows destinations: set networkPolicy.offline to false, or empty networkPolicy.egress." -}}
{{- end -}}
{{- end -}}
