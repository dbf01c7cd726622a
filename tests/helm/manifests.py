"""Helpers that render the chart into objects and validate these objects as Kubernetes would."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pydantic
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

CHART = Path(__file__).parents[2] / "helm" / "embedship"
VERSIONS = ("1.30", "1.33", "1.37")
NAMESPACE = "embeddings"

IMAGE = {"repository": "registry.example/embedship"}  # the chart has no default, because no image is published
ANYBODY = {"allowAnonymous": True}  # a server that is reachable from outside needs API keys or this setting

# Values that enable every object of the chart at once.
EVERYTHING: dict[str, Any] = {
    "auth": {"create": True, "admin": {"create": True}},
    "autoscaling": {"enabled": True, "kind": "keda", "keda": {"prometheus": "http://prometheus.monitoring:9090"}},
    "backup": {"enabled": True, "claims": ["index", "state-search-embedship-0"], "claimName": "copies"},
    "bulkRay": {
        "enabled": True,
        "image": "registry.example/embedship-ray:1",
        "claimName": "corpus",
        "source": "in.jsonl",
    },
    "bundle": {"fingerprint": "0" * 64},
    "check": {"schedule": "*/10 * * * *"},
    "driftReport": {"enabled": True, "claimName": "logs"},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}}],
    "fetch": {
        "enabled": True,
        "bundles": [{"url": "oci://registry.example/m:1", "digest": "sha256:" + "f" * 64, "folder": "minilm-1"}],
        "claim": {"create": True, "name": "models"},
        "egress": [{"ports": [{"port": 443}]}],
    },
    "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["search.example"]},
    "index": {"enabled": True, "claimName": "index"},
    "ingress": {"enabled": True, "host": "search.example", "tlsSecret": "certificate"},
    "kind": "StatefulSet",
    "metrics": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboard": {"enabled": True}},
    "networkPolicy": {"offline": False, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    "reranker": {"enabled": True, "claimName": "reranker"},
    "server": {"devices": "cuda:0"},
}


# Values for a release with a canary; each of the two servers gets a share of the requests.
CANARY: dict[str, Any] = {
    "auth": {"create": True, "admin": {"create": True}},
    "canary": {
        "enabled": True,
        "weight": 10,
        "bundle": {"claimName": "bundle-2", "fingerprint": "2" * 64},
        "index": {"claimName": "index-2"},
        "compare": {"claimName": "queries"},
        "argo": {"enabled": True},
    },
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    "index": {"enabled": True, "claimName": "index"},
    "ingress": {
        "className": "nginx",
        "enabled": True,
        "host": "search.example",
        "annotations": {"nginx.ingress.kubernetes.io/canary": "no"},
    },
    "metrics": {"serviceMonitor": {"enabled": True}},
}


# Values with which every pod first downloads its bundle.
FETCHED: dict[str, Any] = {
    "bundle": {
        "source": "oci",
        "pull": {
            "url": "oci://registry.example/team/minilm:v1",
            "digest": "sha256:" + "a" * 64,
            "secret": "registry",
            "env": {"HTTPS_PROXY": "http://proxy.example:3128"},
        },
    },
    "check": {"schedule": "*/10 * * * *"},
    "driftReport": {"enabled": True, "claimName": "logs"},
    "networkPolicy": {"offline": False, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
}
ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["search.example"]}
ZERO: dict[str, Any] = {
    "auth": ANYBODY,
    "autoscaling": {"enabled": True, "kind": "http", "http": {"hosts": ["search.example"]}},
    "httpRoute": ROUTE,
}
POOL: dict[str, Any] = {
    "auth": ANYBODY,
    "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}},
    "httpRoute": ROUTE,
}


class StrictLoader(yaml.CSafeLoader):
    """YAML loader that rejects a key that appears twice in a map. Others keep the last one only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Refused(Exception):
    """Helm rendered nothing. The message is its standard error."""


def render(
    helm: Path, values: Mapping[str, Any] | None = None, version: str = "1.33", release: str = "search"
) -> list[dict[str, Any]]:
    return list(filter(None, yaml.load_all(text(helm, values, version, release), StrictLoader)))


def text(helm: Path, values: Mapping[str, Any] | None = None, version: str = "1.33", release: str = "search") -> str:
    """Return Helm's output. `values` are passed on stdin (`-`) as JSON, which is valid YAML, with a default image."""
    command = [helm, "template", release, CHART, "--namespace", NAMESPACE, "--kube-version", version, "--values", "-"]
    values = values or {}
    given = json.dumps({**values, "image": {**IMAGE, **values.get("image", {})}})
    answer = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        raise Refused(answer.stderr)
    return answer.stdout


def one(objects: list[dict[str, Any]], kind: str, suffix: str = "") -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def server(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the server's container."""
    workload = next(each for each in objects if each["kind"] in ("Deployment", "StatefulSet"))
    container: dict[str, Any] = workload["spec"]["template"]["spec"]["containers"][0]
    return container


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every pod in these objects: bare pods and those of workloads, Jobs and CronJobs."""
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        match each["kind"]:
            case "Pod":
                yield name, each["spec"]
            case "Deployment" | "StatefulSet" | "Job":
                yield name, each["spec"]["template"]["spec"]
            case "CronJob":
                yield name, each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            case "AnalysisTemplate":
                yield name, each["spec"]["metrics"][0]["provider"]["job"]["spec"]["template"]["spec"]
            case "RayJob":
                yield from ((name, template["spec"]) for template in ray_templates(each))


def ray_templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of the head node and of each worker group."""
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def faults(each: dict[str, Any], version: str) -> list[str]:
    """Return the errors of an object by the strict schemas of this Kubernetes version or of its operator."""
    match each["apiVersion"].split("/")[0]:
        case "monitoring.coreos.com" | "keda.sh":
            return _unknown(each)
        case "gateway.networking.k8s.io":
            return _kept(each, "httproute.schema.json")
        case "http.keda.sh":
            return _kept(each, "httpscaledobject.schema.json")
        case "inference.networking.k8s.io":
            return _kept(each, "inferencepool.schema.json")
        case "argoproj.io":
            jobs = [metric["provider"]["job"]["spec"] for metric in each["spec"]["metrics"]]
            made = [{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job} for job in jobs]
            known = [fault for job in made for fault in _faults(json.dumps(job, sort_keys=True), version)]
            return [*_kept(each, "analysistemplate.schema.json"), *known]
        case "ray.io":
            made = [{"apiVersion": "v1", "kind": "Pod", **template} for template in ray_templates(each)]
            known = [fault for pod in made for fault in _faults(json.dumps(pod, sort_keys=True), version)]
            return [*_kept(each, "rayjob.schema.json"), *known]
    return _faults(json.dumps(each, sort_keys=True), version)


def _kept(each: dict[str, Any], schema: str) -> list[str]:
    validator = Draft202012Validator(json.loads((Path(__file__).parent / schema).read_text()))
    return [error.message for error in validator.iter_errors(each)]


@cache
def _faults(each: str, version: str) -> list[str]:
    value = json.loads(each)
    group, _, api = value["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (value["kind"].lower(), group.split(".")[0], api)))
    return [f"{error.json_path}: {error.message}" for error in _validator(name, version).iter_errors(value)]


@cache
def _validator(name: str, version: str) -> Draft202012Validator:
    """Return the validator of one kind. Raises FileNotFoundError if this Kubernetes version does not have it."""
    schema = json.loads((_folder(version) / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    text = (_folder(version) / "_definitions.json").read_text()
    return Resource.from_contents(json.loads(text)) @ Registry()


def _folder(version: str) -> Path:
    folder = Path(str(importlib.resources.files("kubernetes_validate"))) / "kubernetes-json-schema"
    return next(folder.glob(f"v{version}.*-local-strict"))


_MODELS: dict[str, type[pydantic.BaseModel]] = {
    "ServiceMonitor": ServiceMonitor,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
    "ScaledObject": ScaledObject,
}


# Keys newer than the models: https://keda.sh/docs/latest/reference/scaledobject-spec (2.17 and newer).
_NEWER = {"$.spec.fallback.behavior"}


def _unknown(each: dict[str, Any]) -> list[str]:
    """Return the keys that the operator's model drops, because the operator would ignore them."""
    try:
        model = _MODELS[each["kind"]].model_validate(each)
    except pydantic.ValidationError as error:
        return [str(error)]
    back = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return [f"{path} is unknown" for path in _lost(each, back, "$") if path not in _NEWER]


def _lost(given: Any, back: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in back:
                yield f"{path}.{key}"
            else:
                yield from _lost(value, back[key], f"{path}.{key}")
    elif isinstance(given, list):
        for i, (left, right) in enumerate(zip(given, back, strict=True)):
            yield from _lost(left, right, f"{path}[{i}]")
