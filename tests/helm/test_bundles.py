"""Several bundles in one release: each gets its own server, with the same features as a single bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .drawing import nested
from .manifests import ANYBODY, EVERYTHING, FETCHED, VERSIONS, Refused, faults, render
from .restricted import violations

TWO: dict[str, Any] = {
    "auth": {"create": True, "admin": {"create": True}},
    "bundles": {
        "legal": {"bundle": {"pvc": {"claimName": "legal"}}, "replicas": 3, "server": {"max_texts": 64}},
        "medical": {"bundle": {**FETCHED["bundle"]}, "networkPolicy": FETCHED["networkPolicy"], "kind": "StatefulSet"},
    },
    "metrics": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboard": {"enabled": True}},
    "server": {"streams": 1},
}
NAMES = ("search-embedship-legal", "search-embedship-medical")


@pytest.fixture(scope="module")
def objects(helm: Path) -> list[dict[str, Any]]:
    return render(helm, TWO)


def select_kinds(objects: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def test_each_has_a_workload_and_a_service(objects: list[dict[str, Any]]) -> None:
    found = select_kinds(objects, "Deployment", "StatefulSet")
    assert {name: (each["kind"], each["spec"]["replicas"]) for name, each in found.items()} == {
        NAMES[0]: ("Deployment", 3), NAMES[1]: ("StatefulSet", 2),
    }  # fmt: skip
    legal, medical = (found[name]["spec"]["template"]["spec"] for name in NAMES)
    env = [{each["name"]: each["value"] for each in pod["containers"][0]["env"]} for pod in (legal, medical)]
    assert [each.get("EMBEDSHIP_MAX_TEXTS") for each in env] == ["64", None]
    assert [each["EMBEDSHIP_STREAMS"] for each in env] == ["1", "1"], "release values apply to all bundles"
    assert ("initContainers" in legal, "initContainers" in medical) == (False, True)
    assert set(select_kinds(objects, "Service")) == {*NAMES, f"{NAMES[1]}-replicas"}


def test_none_answers_for_another(objects: list[dict[str, Any]]) -> None:
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in
            select_kinds(objects, "Deployment", "StatefulSet").items()}  # fmt: skip

    def chosen(selector: dict[str, str]) -> list[str]:
        return [name for name, labels in pods.items() if selector.items() <= labels.items()]

    for name in NAMES:
        assert chosen(select_kinds(objects, "Service")[name]["spec"]["selector"]) == [name]
        assert chosen(select_kinds(objects, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"]) == [name]
        assert chosen(select_kinds(objects, "Deployment", "StatefulSet")[name]["spec"]["selector"]["matchLabels"]) == [
            name
        ]
        assert chosen(
            select_kinds(objects, "NetworkPolicy")[f"{name}-server"]["spec"]["podSelector"]["matchLabels"]
        ) == [name]
        watched = select_kinds(objects, "ServiceMonitor")[name]["spec"]["selector"]["matchLabels"]
        services = [
            n
            for n, each in select_kinds(objects, "Service").items()
            if watched.items() <= each["metadata"]["labels"].items()
        ]
        assert services == [name], "a second service would be scraped twice"


def test_only_the_one_that_fetches_reaches_out(objects: list[dict[str, Any]]) -> None:
    policies = select_kinds(objects, "NetworkPolicy")
    assert policies[f"{NAMES[0]}-server"]["spec"]["egress"] == []
    assert FETCHED["networkPolicy"]["egress"][0] in policies[f"{NAMES[1]}-server"]["spec"]["egress"]


def test_what_is_the_release_s_is_there_once(objects: list[dict[str, Any]]) -> None:
    assert set(select_kinds(objects, "Secret")) == {"search-embedship-keys", "search-embedship-admin"}
    assert set(select_kinds(objects, "ServiceAccount")) == {"search-embedship"}
    for kind in ("PrometheusRule", "ConfigMap"):
        assert len(select_kinds(objects, kind)) == 1
    notes = [each["spec"]["template"]["metadata"]["annotations"] for each in
             select_kinds(objects, "Deployment", "StatefulSet").values()]  # fmt: skip
    assert len({(each["checksum/keys"], each["checksum/admin-keys"]) for each in notes}) == 1, "one key for all"


def test_each_is_asked_by_a_test_of_its_own(objects: list[dict[str, Any]]) -> None:
    tests = select_kinds(objects, "Pod")
    assert {each["spec"]["containers"][0]["args"][1] for each in tests.values()} == {f"http://{n}:80" for n in NAMES}


@pytest.mark.parametrize("values", [TWO, nested(EVERYTHING), nested(FETCHED)], ids=["two", "everything", "fetched"])
def test_kubernetes_takes_them(helm: Path, values: dict[str, Any]) -> None:
    for version in VERSIONS:
        made = render(helm, values, version)
        assert [fault for each in made for fault in faults(each, version)] == []
        assert violations(made) == []


def test_one_of_them_is_what_it_would_be_alone(helm: Path) -> None:
    """Except for its name and label. Backups and bulk encoding belong to the release."""
    everything = {**EVERYTHING, "auth": ANYBODY, "backup": {}, "bulkRay": {}, "extraObjects": [], "fetch": {}}
    alone = render(helm, everything)
    inside = json.loads(
        json.dumps(render(helm, nested(everything)))
        .replace("search-embedship-legal", "search-embedship")
        .replace(', "embedship/bundle": "legal"', "")
    )
    order: Callable[[dict[str, Any]], tuple[str, str]] = lambda each: (each["kind"], each["metadata"]["name"])  # noqa: E731
    assert sorted(inside, key=order) == sorted(alone, key=order)


def test_both_helms_make_the_same(tool: Callable[[str], Path]) -> None:
    values = {**TWO, "auth": {}}
    by = [sorted(map(json.dumps, render(tool(name), values))) for name in ("helm", "helm-3.17")]
    assert by[0] == by[1]


def test_names_stay_short_and_apart(helm: Path) -> None:
    names = ("a" * 20, "a" * 19 + "b")
    values = {"bundles": {name: {**EVERYTHING_FOR_ONE} for name in names}}
    made = render(helm, values, release="r" * 53)
    object_names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(set(object_names)) == len(object_names)
    assert all(len(name) <= 52 for _, name in object_names)


EVERYTHING_FOR_ONE = {"check": {"schedule": "*/10 * * * *"}, "kind": "StatefulSet"}


@pytest.mark.parametrize("values", [
    {"bundles": {"legal": {"typpo": 1}}}, {"bundles": {"legal": {"bundle": {"typpo": 1}}}},
    {"bundles": {"legal": {"server": {"typpo": 1}}}}, {"bundles": {"Legal": {}}}, {"bundles": {"a-b": {}}},
    {"bundles": {"legal": {"auth": {"create": True}}}}, {"bundles": {"legal": {"replicas": -1}}}, {"bundles": []},
])  # fmt: skip
def test_a_typo_is_refused_there_as_well(each_helm: Path, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="bundles"):
        render(each_helm, values)
