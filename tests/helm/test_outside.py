"""Access from outside the cluster: allowed clients, API keys, ports, and the canary's share of the requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .manifests import ANYBODY, CANARY, NAMESPACE, Refused, one, render, server

KEYS = {"auth": {"create": True}}
WAYS: dict[str, dict[str, Any]] = {
    "ingress": {"ingress": {"enabled": True, "host": "search.example"}},
    "route": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway", "namespace": "edge"}]}},
    "balancer": {
        "service": {"type": "LoadBalancer"},
        "networkPolicy": {"serviceFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_nobody_gets_in_without_a_key_unless_that_is_meant(helm: Path, way: str) -> None:
    with pytest.raises(Refused, match="no API key is configured"):
        render(helm, WAYS[way])
    assert render(helm, {**WAYS[way], "auth": ANYBODY})
    assert render(helm, {**WAYS[way], "auth": {"existingSecret": "ours"}})


@pytest.mark.parametrize("way", WAYS)
def test_metrics_are_not_on_the_port_that_is_reached_from_outside(helm: Path, way: str) -> None:
    ports = {each["name"] for each in server(render(helm, {**WAYS[way], **KEYS}))["ports"]}
    assert ports == {"http", "metrics"}
    together = server(render(helm, {**WAYS[way], **KEYS, "metrics": {"ownPort": False}}))
    assert [each["name"] for each in together["ports"]] == ["http"], "if set explicitly"
    assert [each["name"] for each in server(render(helm))["ports"]] == ["http"], "one port is enough inside the cluster"


def peers(objects: list[dict[str, Any]], port: str = "http") -> list[Any]:
    rules = one(objects, "NetworkPolicy", "-server")["spec"]["ingress"]
    return [peer for rule in rules if rule["ports"][0]["port"] == port for peer in rule["from"]]


def test_a_load_balancer_lets_in_whom_the_policy_names(helm: Path) -> None:
    with pytest.raises(Refused, match="blocks all clients outside the cluster"):
        render(helm, {"service": {"type": "LoadBalancer"}, **KEYS})
    assert {"ipBlock": {"cidr": "10.0.0.0/8"}} in peers(render(helm, {**WAYS["balancer"], **KEYS}))
    assert render(helm, {"service": {"type": "NodePort"}, "networkPolicy": {"enabled": False}, **KEYS})


def test_a_route_lets_in_the_namespaces_of_its_gateways(helm: Path) -> None:
    def namespace_peer(name: str) -> dict[str, Any]:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

    found = peers(render(helm, {**WAYS["route"], **KEYS}))
    assert namespace_peer("edge") in found
    assert namespace_peer("ingress-nginx") not in found
    bare = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}}
    assert namespace_peer(NAMESPACE) in peers(render(helm, {**bare, **KEYS}))
    envoy = {**WAYS["route"], **KEYS, "networkPolicy": {"gatewayFrom": [namespace_peer("envoy-gateway-system")]}}
    assert namespace_peer("envoy-gateway-system") in peers(render(helm, envoy))
    assert namespace_peer("edge") not in peers(render(helm, envoy))


def test_a_narrow_policy_still_lets_the_releases_own_jobs_in(helm: Path) -> None:
    """The labels of the pods of `helm test`, of the check and of the comparison match the policy."""
    narrow = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}
    objects = render(helm, {**CANARY, "networkPolicy": narrow, "check": {"schedule": "0 * * * *"}})
    chosen = [peer["podSelector"].get("matchLabels", {}) for peer in peers(objects) if "podSelector" in peer]
    pods = [one(objects, "Pod", suffix)["metadata"]["labels"] for suffix in ("-test", "-compare")]
    pods.append(one(objects, "CronJob", "-check")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"])
    for labels in pods:
        assert any(each.items() <= labels.items() for each in chosen if each)


@pytest.mark.parametrize("name", ["traefik", "", "internal"])
def test_a_share_through_an_ingress_is_for_the_controller_that_knows_shares(helm: Path, name: str) -> None:
    """Another controller would see two Ingresses of one host and send the canary any share, even at weight 0."""
    values = {**CANARY, "ingress": {"enabled": True, "host": "search.example", "className": name}}
    with pytest.raises(Refused, match="use httpRoute"):
        render(helm, values)
    idle = render(helm, {**values, "canary": {**CANARY["canary"], "weight": 0}})
    assert [each["metadata"]["name"] for each in idle if each["kind"] == "Ingress"] == ["search-embedship"]
    made = render(helm, {**values, "canary": {**CANARY["canary"], "nginx": True}})
    assert (
        one(made, "Ingress", "-canary")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] == "10"
    )
