"""The Job that downloads bundles into a claim: command, order, network policy, certificates and signatures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..embedship.transfer import servers
from .manifests import EVERYTHING, FETCHED, faults, one, render
from .test_pull import SECONDS, run

FETCH: dict[str, Any] = EVERYTHING["fetch"]


def job(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return one(objects, "Job", "-fetch")


def test_servers_start_after_it_and_it_waits_for_nothing_of_the_release(helm: Path) -> None:
    """It is a hook before install and upgrade, so it may only need existing objects and earlier hooks."""
    objects = render(helm, {"fetch": FETCH, "bundle": {"pvc": {"claimName": "models"}, "path": "minilm-1"}})
    weights = {}
    for kind, suffix in (("PersistentVolumeClaim", "models"), ("NetworkPolicy", "-fetch"), ("Job", "-fetch")):
        notes = one(objects, kind, suffix)["metadata"]["annotations"]
        assert "pre-install" in notes["helm.sh/hook"]
        weights[kind] = int(notes["helm.sh/hook-weight"])
    assert weights["PersistentVolumeClaim"] < weights["Job"] > weights["NetworkPolicy"]
    assert one(objects, "PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    pod = job(objects)["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == "default", "the release's account does not exist yet"
    policy = one(objects, "NetworkPolicy", "-fetch")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["egress"][1] == {"ports": [{"port": 443}]}
    assert one(objects, "NetworkPolicy", "-server")["spec"]["egress"] == [], "servers stay offline"
    made = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    out = pod["spec"]["containers"][0]["args"][3]
    assert made["args"] == ["serve", out], "the server reads the download folder"


def test_a_bundle_and_a_re_ranker_in_one_run(helm: Path) -> None:
    ranks = {**FETCH["bundles"][0], "folder": "ranks/v1", "digest": "sha256:" + "e" * 64}
    containers = job(render(helm, {"fetch": {**FETCH, "bundles": [*FETCH["bundles"], ranks]}}))["spec"]["template"]
    downloads = [(each["name"], each["args"][3], each["args"][5]) for each in containers["spec"]["containers"]]
    assert downloads == [
        ("pull-0", "/bundle/minilm-1", "sha256:" + "f" * 64), ("pull-1", "/bundle/ranks/v1", "sha256:" + "e" * 64),
    ]  # fmt: skip


PRIVATE = {"ca": {"configMap": "our-ca"}, "key": {"configMap": "our-key", "key": "model.pub"}, "secret": "registry"}


@pytest.mark.parametrize("way", ["init container", "job"])
def test_a_private_authority_and_a_signature(helm: Path, way: str) -> None:
    """The init container and the Job mount every file that their arguments and variables name."""
    if way == "job":
        objects = render(helm, {"fetch": FETCH, "bundle": {"pull": PRIVATE}})
        pod = job(objects)["spec"]["template"]["spec"]
        container = pod["containers"][0]
    else:
        objects = render(
            helm, {**FETCHED, "bundle": {"source": "oci", "pull": {**FETCHED["bundle"]["pull"], **PRIVATE}}}
        )
        pod = one(objects, "Deployment")["spec"]["template"]["spec"]
        (container,) = pod["initContainers"]
    assert [fault for each in objects for fault in faults(each, "1.33")] == []
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["REQUESTS_CA_BUNDLE"] == "/ca/ca.crt"
    assert container["args"][container["args"].index("--key") + 1] == "/key/key.pem"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert {"ca": "/ca", "key": "/key", "credentials": "/credentials"}.items() <= mounts.items()
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["ca"]["configMap"] == {"name": "our-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert volumes["key"]["configMap"]["items"] == [{"key": "model.pub", "path": "key.pem"}]


def test_credentials_of_a_web_server_are_a_netrc(helm: Path) -> None:
    pull = {**FETCHED["bundle"]["pull"], "url": "https://files.example/minilm/", "secret": "netrc"}
    pod = one(render(helm, {**FETCHED, "bundle": {"source": "http", "pull": pull}}), "Deployment")["spec"]["template"]
    (init,) = pod["spec"]["initContainers"]
    assert {"name": "NETRC", "value": "/credentials/.netrc"} in init["env"]
    assert "envFrom" not in init
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "credentials")
    assert volume["secret"]["items"] == [{"key": ".netrc", "path": ".netrc"}]


def test_the_job_fills_a_claim_from_a_real_registry(
    helm: Path, bundle: Path, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """The rendered container, run as a process, downloads a valid bundle. A second run leaves it unchanged."""
    folders = {f"/{name}": tmp_path / name for name in ("bundle", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    with servers.registry(tool("docker-registry"), tmp_path / "registry") as served:
        address = f"oci://127.0.0.1:{served.port}/team/minilm:v1"
        pushed = json.loads(servers.embedship("push", bundle, address, "--json").communicate(timeout=SECONDS)[0])
        wanted = {"url": pushed["source"], "digest": pushed["digest"], "folder": "minilm-1"}
        (container,) = job(render(helm, {"fetch": {**FETCH, "bundles": [wanted]}}))["spec"]["template"]["spec"][
            "containers"
        ]
        for _ in range(2):
            done: subprocess.CompletedProcess[str] = run(container, folders)
            assert done.returncode == 0, done.stderr
        wrong = {**wanted, "digest": "sha256:" + "0" * 64, "folder": "other"}
        (container,) = job(render(helm, {"fetch": {**FETCH, "bundles": [wrong]}}))["spec"]["template"]["spec"][
            "containers"
        ]
        assert run(container, folders).returncode == 4, "the bundle has another digest than the pinned one"
    assert sorted(each.name for each in folders["/bundle"].iterdir()) == ["minilm-1"]
    assert (folders["/bundle"] / "minilm-1" / "bundle.json").read_bytes() == (bundle / "bundle.json").read_bytes()
