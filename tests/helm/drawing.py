"""Hypothesis strategy for values of the chart, from its schema. Supports only the keywords that the schema uses."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import strategies as st

from .manifests import CHART

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
_OPEN = {
    "global",
    "bundles",
    "affinity",
    "constraints",
    "extraContainers",
    "extraEnvFrom",
    "extraEnvVars",
    "extraInitContainers",
    "extraObjects",
    "extraVolumes",
    "filters",
    "metricRelabelings",
    "relabelings",
    "strategy",
    "extraVolumeMounts",
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
}
_SHORT = st.text(string.ascii_letters + string.digits + " -_.:/#{}'\"%&*!|>@`", max_size=12)


@st.composite
def drawn(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values that the schema allows. `consistent` removes contradictions between them."""
    given = {name: each for name, each in SCHEMA["properties"].items() if name not in _OPEN and draw(st.booleans())}
    return consistent({name: draw(_of(each)) for name, each in given.items()})


SCHEMES = {"oci": "oci://", "s3": "s3://", "http": "https://", "hf": "hf://"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        _, where, name = schema["$ref"].split("/")
        schema = SCHEMA[where][name]
    return schema


def _of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    schema = resolved(schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(_of, schema["anyOf"]))
    if "allOf" in schema:
        return _of({**resolved(schema["allOf"][0]), **{k: v for k, v in schema.items() if k != "allOf"}})
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of(*(_KINDS[kind](schema) for kind in kinds))


def _string(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    found = _SHORT
    if "pattern" in schema:
        found = st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(max_codepoint=126))
    low, high = schema.get("minLength", 0), schema.get("maxLength", 10_000)
    return found.filter(lambda text: low <= len(text) <= high)


def _integer(schema: dict[str, Any]) -> st.SearchStrategy[int]:
    return st.integers(int(schema.get("minimum", 0)), int(schema.get("maximum", 1_000_000)))


def _number(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    return st.floats(low, schema.get("maximum", 1e6), exclude_min="exclusiveMinimum" in schema)


def _array(schema: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=2)


def _object(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        if "patternProperties" not in schema:
            return st.just({})
        ((pattern, each),) = schema["patternProperties"].items()
        return st.dictionaries(_string({"pattern": pattern}), _of(each), max_size=2)
    fields = {name: _of(each) for name, each in schema["properties"].items() if name not in _OPEN}
    needed = {name: fields.pop(name) for name in schema.get("required", ())}
    found = st.fixed_dictionaries(needed, optional=fields)
    return found.filter(bool) if schema.get("minProperties") else found


_KINDS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "object": _object,
    "boolean": lambda schema: st.booleans(),
    "null": lambda schema: st.none(),
}


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Move the values that an entry of `bundles` may set into such an entry; the rest stays with the release."""
    ((_, own),) = SCHEMA["properties"]["bundles"]["patternProperties"].items()
    inner = {name: value for name, value in values.items() if name in own["properties"]}
    values = {name: value for name, value in values.items() if name != "fetch"}  # not allowed together with bundles
    rest = {name: value for name, value in values.items() if name not in inner and name not in ("canary", "bulkRay")}
    return {**rest, "bundles": {"legal": inner}}


def consistent(values: dict[str, Any]) -> dict[str, Any]:
    """Remove contradictions that the templates reject. Separate tests cover each of them."""

    def part(*names: str) -> dict[str, Any]:
        found = values
        for name in names:
            found = found.setdefault(name, {})
        return found

    if values.get("user", "") is None:
        del values["user"]  # then the cluster chooses the user, which the checker of these examples cannot know
    image = part("image")
    image["repository"] = image.get("repository") or "embedship"
    bundle, claim = part("bundle"), part("bundle", "pvc")
    bundle["path"] = "/" + bundle.get("path", "").replace("..", "").lstrip("/")
    if bundle.get("source") == "image":
        bundle["source"] = "pvc"  # not every Kubernetes version has image volumes
    pull, canary = part("bundle", "pull"), part("canary", "bundle")
    if scheme := SCHEMES.get(bundle.get("source", "pvc")):
        pull |= {"url": f"{scheme}host/bundle", "digest": pull.get("digest") or "sha256:" + "0" * 64}
        bundle["path"], canary["claimName"], canary["image"], canary["path"] = "", "", "", ""
        egress = part("networkPolicy").get("egress") or [{"ports": [{"port": 443}]}]
        values["networkPolicy"] |= {"offline": False, "egress": egress}
        canary["digest"] = canary.get("digest") or "sha256:" + "1" * 64
    else:
        canary["url"], canary["digest"], canary["image"] = "", "", ""
        canary["claimName"] = canary.get("claimName", "") if bundle.get("source", "pvc") == "pvc" else ""
    claim["claimName"] = claim.get("claimName") or "models"
    ranks = part("reranker")
    ranks |= {"path": ranks.get("path", "").replace("..", ""), "claimName": ranks.get("claimName") or "reranker"}
    part("reranker", "pull")["url"] = ""
    part("server")["variant"] = part("bundle", "pull").get("variant") or None
    index = part("index")
    if part("index", "milvus").get("address"):
        index |= {"path": "", "claimName": ""}
        part("canary", "index").update(claimName="", path="")
        part("signature")["configMap"], part("server")["digests"] = "", None
        egress = part("networkPolicy").get("egress") or [{"ports": [{"port": 19530}]}]
        values["networkPolicy"] |= {"offline": False, "egress": egress}
    else:
        index |= {"path": index.get("path", "").replace("..", ""), "claimName": index.get("claimName") or "index"}
    if not index.get("enabled"):
        part("canary", "index").update(claimName="", path="")
    if part("auth").get("create"):
        values["auth"]["existingSecret"] = ""
    values["auth"]["allowAnonymous"] = True
    service = part("service")
    if service.get("type", "ClusterIP") == "ClusterIP":
        service |= {"nodePort": 0, "externalTrafficPolicy": ""}
    if service.get("type") != "LoadBalancer":
        service |= {"loadBalancerClass": "", "loadBalancerSourceRanges": []}
    service["trafficDistribution"] = ""  # not every Kubernetes version has it
    policy = part("networkPolicy")
    policy["serviceFrom"] = policy.get("serviceFrom") or [{"podSelector": {}}]
    if part("server").get("writable"):
        values["server"]["writable"] = False
    drain = part("drain")
    drain["preStopSeconds"] = min(drain.get("preStopSeconds", 5), drain.get("seconds", 30) - 1)
    part("canary")["nginx"] = True
    if part("auth", "write").get("create"):
        values["auth"]["write"]["existingSecret"] = ""
    part("bulkRay")["token"] = True
    ca = part("bundle", "pull", "ca")
    if bundle.get("source") == "s3":
        ca |= {"configMap": "", "secret": ""}
    if ca.get("secret"):
        ca["configMap"] = ""
    fetch = part("fetch")
    oci = {"url": "oci://registry.example/m:1", "digest": "sha256:" + "2" * 64, "folder": "m"}
    fetch["bundles"] = [{**each, "url": oci["url"]} for each in fetch.get("bundles", [])] or [oci]
    fetch["egress"] = fetch.get("egress") or [{"ports": [{"port": 443}]}]
    claimed = part("fetch", "claim")
    claimed["name"] = claimed.get("name") or "models"
    scaling = part("autoscaling")
    low = scaling.get("minReplicas", 2)
    scaling |= {"minReplicas": low, "maxReplicas": max(low, scaling.get("maxReplicas", 8))}
    part("autoscaling", "keda")["prometheus"] = "http://prometheus:9090"
    if part("httpRoute").get("enabled"):
        values["httpRoute"]["parentRefs"] = values["httpRoute"].get("parentRefs") or [{"name": "gateway"}]
    ingress, drift = part("ingress"), part("driftReport")
    ingress["host"] = ingress.get("host") or "search.example"
    drift["claimName"] = drift.get("claimName") or "logs"
    admin, canary, backup = part("auth", "admin"), part("canary"), part("backup")
    if admin.get("create"):
        admin["existingSecret"] = ""
    for folder in (part("canary", "bundle"), part("canary", "index")):
        folder["path"] = folder.get("path", "").replace("..", "")
    compare = part("canary", "compare")
    compare["claimName"] = compare.get("claimName") or "queries"
    if not (part("httpRoute").get("enabled") or ingress.get("enabled")):
        canary["weight"] = 0
    if canary.get("enabled"):
        part("canary", "image")["tag"] = "another"  # the other values may be drawn equal to the release's
        part("canary", "image")["digest"] = ""
    if part("gpu").get("enabled"):
        part("server")["devices"] = "cuda:0"
    part("metrics", "podMonitor")["enabled"] = not part("metrics", "serviceMonitor").get("enabled", False)
    backup["claimName"] = backup.get("claimName") or "copies"
    backup["claims"] = [claim for claim in backup.get("claims", []) if claim != backup["claimName"]] or ["index"]
    bulk = part("bulkRay")
    bulk |= {"claimName": bulk.get("claimName") or "corpus", "image": bulk.get("image") or "ray"}
    bulk["source"] = bulk.get("source", "").removeprefix("s3://") or "in.jsonl"
    if values.get("exclusiveCpus"):
        values["resources"] = {"limits": {"cpu": "2", "memory": "2Gi"}}
    pool = part("inferencePool")
    part("inferencePool", "endpointPicker")["name"] = "picker"
    if scaling.get("kind") == "http":
        part("autoscaling", "http")["hosts"] = ["search.example"]
        ingress["enabled"], pool["enabled"], canary["weight"] = False, False, 0
        part("check")["schedule"] = ""
    if pool.get("enabled"):
        canary["enabled"], canary["weight"] = False, 0
    if part("networkPolicy").get("offline", True):
        values["networkPolicy"].pop("egress", None)
    return values
