"""Scale to zero, InferencePool, CPUs of one's own, and several bundles behind one route."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .manifests import ANYBODY, FETCHED, POOL, ROUTE, ZERO, Refused, faults, one, pods, render


def backends(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [backend for rule in one(objects, "HTTPRoute")["spec"]["rules"] for backend in rule["backendRefs"]]


def test_without_requests_no_server_runs_and_the_first_one_waits(helm: Path) -> None:
    objects = render(helm, {**ZERO, "startup": {"maxSeconds": 90}})
    scaled = one(objects, "HTTPScaledObject")
    assert faults(scaled, "1.33") == []
    spec = scaled["spec"]
    assert spec["replicas"] == {"min": 0, "max": 8}
    assert spec["timeouts"]["conditionWait"] == "90s", "as long as a pod may need to become ready"
    service = one(objects, "Service", "search-embedship")
    assert spec["scaleTargetRef"]["service"] == service["metadata"]["name"]
    assert spec["scaleTargetRef"]["port"] == service["spec"]["ports"][0]["port"]
    assert spec["scaleTargetRef"]["name"] == one(objects, "Deployment")["metadata"]["name"]
    assert not [each for each in objects if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    slow = render(helm, {**ZERO, **{**FETCHED, "check": {}}, "startup": {"maxSeconds": 90}})
    assert one(slow, "HTTPScaledObject")["spec"]["timeouts"]["conditionWait"] == "990s", "and to download the bundle"


def test_requests_reach_the_servers_through_the_interceptor(helm: Path) -> None:
    interceptor = {"name": "ours", "namespace": "http-scaling", "port": 8081}
    scaling = {**ZERO["autoscaling"], "http": {"hosts": ["search.example"], "interceptor": interceptor}}
    objects = render(helm, {**ZERO, "autoscaling": scaling})
    assert backends(objects) == [interceptor]
    allowed = one(objects, "NetworkPolicy", "-server")["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "http-scaling"}}} in allowed
    assert [fault for each in objects for fault in faults(each, "1.33")] == []


def test_a_gateway_asks_the_endpoint_picker(helm: Path) -> None:
    objects = render(helm, POOL)
    pool = one(objects, "InferencePool")
    assert faults(pool, "1.33") == []
    template = one(objects, "Deployment")["spec"]["template"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = [each["containerPort"] for each in template["spec"]["containers"][0]["ports"] if each["name"] == "http"]
    assert [each["number"] for each in pool["spec"]["targetPorts"]] == ports
    group = "inference.networking.k8s.io"
    assert backends(objects) == [{"group": group, "kind": "InferencePool", "name": "search-embedship"}]
    assert faults(one(objects, "HTTPRoute"), "1.33") == []
    pool["spec"]["targetPort"] = 1
    assert faults(pool, "1.33"), "an unknown key"


def test_whole_cpus_need_equal_requests_and_limits_in_the_whole_pod(helm: Path) -> None:
    """The kubelet assigns CPUs only to pods of the quality of service Guaranteed."""
    values = {**FETCHED, "exclusiveCpus": True, "resources": {"limits": {"cpu": "4", "memory": "4Gi"}}}
    (pod,) = (pod for name, pod in pods(render(helm, values)) if name.startswith("Deployment"))
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["resources"]["requests"] == container["resources"]["limits"], container["name"]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    (shared,) = (pod for name, pod in pods(render(helm)) if name.startswith("Deployment"))
    assert shared["containers"][0]["resources"]["requests"] != shared["containers"][0]["resources"]["limits"]


def test_several_bundles_are_behind_one_route(helm: Path) -> None:
    """Each at its own path, which the server does not see."""
    bundles = {"bundles": {"legal": {"service": {"port": 81}}, "medical": {}}, "auth": ANYBODY}
    objects = render(helm, {**bundles, "httpRoute": {**ROUTE, "path": "/models/", "combine": True}})
    route = one(objects, "HTTPRoute")
    assert route["metadata"]["name"] == "search-embedship"
    assert faults(route, "1.33") == []
    found = {
        rule["matches"][0]["path"]["value"]: (rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"])
        for rule in route["spec"]["rules"]
    }
    assert found == {
        "/models/legal": ("search-embedship-legal", 81), "/models/medical": ("search-embedship-medical", 80),
    }  # fmt: skip
    for rule in route["spec"]["rules"]:
        (rewrite,) = rule["filters"]
        assert rewrite["urlRewrite"]["path"] == {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    with pytest.raises(Refused, match="use the same address"):
        render(helm, {**bundles, "httpRoute": ROUTE})
    alone = render(helm, {"auth": ANYBODY, "httpRoute": {**ROUTE, "combine": True}})
    assert one(alone, "HTTPRoute")["spec"]["rules"][0]["matches"][0]["path"]["value"] == "/", "one bundle has no prefix"
