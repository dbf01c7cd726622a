"""Misspelt values are rejected at every level, and all values that the schema allows render valid manifests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from jsonschema import Draft7Validator

from .drawing import SCHEMA, drawn, resolved
from .drawing import nested as in_a_bundle
from .manifests import ANYBODY, CHART, EVERYTHING, VERSIONS, Refused, faults, render, text
from .restricted import violations

TYPO = "typpo"
# Objects whose content Kubernetes validates, and those of a parent chart.
OPEN = {"global", "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity", "extraVolumes.0"}
# Maps with free names, whose pattern a misspelt name may match.
FREE = {
    "annotations",
    "labels",
    "matchLabels",
    "podAnnotations",
    "podLabels",
    "nodeSelector",
    "extraEnv",
    "env",
    "bundles",
    "alertLabels",
    "commonAnnotations",
    "commonLabels",
    "severities",
    "workloadAnnotations",
}
# Items that Kubernetes, the Gateway API or the Prometheus operator validate.
OPEN |= {
    f"{name}.0"
    for name in (
        "extraObjects",
        "extraInitContainers",
        "extraContainers",
        "topologySpread.constraints",
        "httpRoute.filters",
        "metrics.serviceMonitor.relabelings",
        "metrics.serviceMonitor.metricRelabelings",
        "metrics.podMonitor.relabelings",
        "metrics.podMonitor.metricRelabelings",
    )
} | {"extraEnvVars.0.valueFrom", *(f"canary.{name}" for name in OPEN if name.startswith("affinity."))}


def misspelt(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield, for each object of the schema, valid values with one misspelt key in it."""
    schema = resolved(schema)
    kind = schema.get("type")
    name = ".".join(path)
    if kind == "array":
        yield from misspelt(schema["items"], (*path, "0"))
    elif kind == "object" and name not in OPEN and not FREE & set(path[-1:]):
        yield path, {TYPO: 1}
        for key, each in schema.get("properties", {}).items():
            yield from misspelt(each, (*path, key))


def nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = [value] if key == "0" else {key: value}
    return value


CASES = [(".".join(path), nested(path, value)) for path, value in misspelt(SCHEMA)]


def test_the_schema_is_one_that_both_helms_read() -> None:
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(SCHEMA)


def test_a_typo_is_refused_at_every_level() -> None:
    assert len(CASES) > 60
    validator = Draft7Validator(SCHEMA)
    for name, values in CASES:
        messages = [
            inner.message for error in validator.iter_errors(values) for inner in (error, *(error.context or ()))
        ]
        assert any(TYPO in message for message in messages), f"{name}.{TYPO} is accepted"


def test_helm_refuses_them_as_well(each_helm: Path) -> None:
    """All misspelt keys at once; one at a time would take a minute."""
    together: dict[str, Any] = {}
    for name, _ in CASES:
        if "0" in name.split("."):
            continue
        place = together
        for key in filter(None, name.split(".")):
            place = place.setdefault(key, {})
        place[TYPO] = 1
    with pytest.raises(Refused) as refused:
        render(each_helm, together)
    count = len(re.findall(rf"{TYPO}\b", str(refused.value)))
    assert count == sum(1 for name, _ in CASES if "0" not in name.split("."))


def test_what_a_parent_chart_and_yaml_need_is_open(each_helm: Path) -> None:
    assert render(each_helm, {"global": {"any": {"thing": 1}}, "enabled": True, "x-anchor": {"a": 1}})


@pytest.mark.parametrize("values", [
    {"server": {"batch_tokens": 1}}, {"server": {"max_texts": "many"}}, {"replicas": -1}, {"user": 0},
    {"drain": {"seconds": 5}}, {"drain": {"seconds": 10_000}}, {"resources": {"limits": {"memmory": "1Gi"}}},
    {"image": {"digest": "latest"}}, {"kind": "DaemonSet"}, {"pdb": {"maxUnavailable": "half"}},
])  # fmt: skip
def test_a_value_out_of_range_is_refused(helm: Path, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(values))):
        render(helm, values)


def test_defaults_and_all_of_it_are_valid() -> None:
    for values in (yaml.safe_load((CHART / "values.yaml").read_text()), EVERYTHING):
        Draft7Validator(SCHEMA).validate(values)


def test_every_value_is_in_the_schema_and_back() -> None:
    """A key that only the schema has would be accepted and ignored."""

    def keys(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
        schema = resolved(schema)
        for key, each in schema.get("properties", {}).items():
            yield f"{path}{key}"
            if isinstance(value, dict) and value.get(key) and isinstance(value[key], dict):
                yield from keys(value[key], each, f"{path}{key}.")

    def held(value: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, each in value.items():
            yield f"{path}{key}"
            if isinstance(each, dict):
                yield from held(each, f"{path}{key}.")

    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = {key for key in keys(defaults, SCHEMA) if not key.startswith(("global", "enabled"))}
    ray = ("bulkRay.head.", "bulkRay.workers.")
    owners = ("", "bundle.pull.", "check.", "driftReport.", "canary.compare.", "backup.", *ray)
    maps = ("metrics.dashboard.labels.", *(f"{owner}resources." for owner in owners))
    assert schema == {key for key in held(defaults) if not key.startswith(maps)} | {
        f"{owner}resources.{part}" for owner in owners for part in ("requests", "limits")
    }


def examples(count: int) -> list[dict[str, Any]]:
    """Return the same examples every time, so that a failure is reproducible on every machine."""
    found: list[dict[str, Any]] = []

    @seed(7)
    @settings(max_examples=count, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(drawn())
    def collect(values: dict[str, Any]) -> None:
        found.append(values)

    collect()
    return found


def test_whatever_the_schema_allows_renders_and_is_valid(helm: Path) -> None:
    values = examples(100)
    assert len(values) == 100

    def judge(number: int) -> list[str]:
        """Render for one version in turn and validate with all: from 1.30 on the chart renders the same for each."""
        drawn_values = in_a_bundle(values[number]) if number % 4 == 0 else values[number]
        rendered = text(helm, drawn_values, VERSIONS[number % len(VERSIONS)])
        objects = list(filter(None, yaml.load_all(rendered, yaml.CSafeLoader)))
        found = [
            f"{each['kind']}: {fault}" for each in objects for version in VERSIONS for fault in faults(each, version)
        ]
        assigned = values[number].get("user", 0) is None
        found += violations(objects, assigned_user=assigned)
        return [f"{fault}\n{values[number]}" for fault in found]

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as threads:
        found = [fault for each in threads.map(judge, range(len(values))) for fault in each]
    assert found == []


def test_three_kubernetes_get_the_same(helm: Path) -> None:
    everything = {**EVERYTHING, "auth": ANYBODY}
    assert len({text(helm, everything, version) for version in VERSIONS}) == 1
