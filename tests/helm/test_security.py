"""Every pod of the chart, including hooks and CronJobs, meets the Pod Security level `restricted`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from .manifests import CANARY, EVERYTHING, FETCHED, one, pods, render
from .restricted import violations


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 2),
        ({"gpu": {"enabled": True}, "server": {"devices": "cuda:0"}}, 2),
        (EVERYTHING, 8),
        (CANARY, 5),
        (FETCHED, 4),
    ],
    ids=["default", "gpu", "everything", "canary", "fetched"],
)
def test_every_pod_is_restricted(helm: Path, values: dict[str, Any], count: int) -> None:
    objects = render(helm, values)
    assert len(list(pods(objects))) == count
    assert violations(objects) == []


@pytest.mark.parametrize("change", [
    lambda pod: pod["securityContext"].update(runAsUser=0),
    lambda pod: pod["securityContext"].pop("seccompProfile"),
    lambda pod: pod.update(hostNetwork=True),
    lambda pod: pod.pop("automountServiceAccountToken"),
    lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    lambda pod: pod["volumes"].append({"name": "x", "emptyDir": {}}),
    lambda pod: pod["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
    lambda pod: pod["containers"][0]["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}),
    lambda pod: pod["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    lambda pod: pod.update(initContainers=[{"name": "x"}]),
])  # fmt: skip
def test_a_violation_is_seen(helm: Path, change: Any) -> None:
    objects = copy.deepcopy(render(helm))
    for _, pod in pods(objects):
        change(pod)
        break
    assert violations(objects)


def test_nothing_asks_kubernetes_for_anything(helm: Path) -> None:
    objects = render(helm, EVERYTHING)
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not [
        each for each in objects if each["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
    ]


def test_what_the_server_writes_lies_on_volumes(helm: Path) -> None:
    for values in ({}, EVERYTHING):
        objects = render(helm, values)
        workload = next(each for each in objects if each["kind"] in ("Deployment", "StatefulSet"))
        pod = workload["spec"]["template"]["spec"]
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert {"state": "/state", "cache": "/cache", "tmp": "/tmp"}.items() <= mounts.items()
        named = {each["name"] for each in pod["volumes"]}
        named |= {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())}
        assert set(mounts) <= named
