"""A pod that downloads its bundle: the rendered init container and server run against a real registry."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedship.bundle import Bundle

from ..embedship.transfer import servers
from .local_pods import Pod
from .manifests import FETCHED, one, pods, render

SECONDS = 600  # a limit for a hang, not for a busy machine
USER, PASSWORD = "ship", "hidden word"
HASHED = "$2b$04$NQjd8vhy0yuqGCrchV0tB.ov3r90TfChltmucHFzrLcy/jxW5ONpW"  # bcrypt hash of the password


@pytest.fixture
def registry(tool: Callable[[str], Path], tmp_path: Path) -> Iterator[servers.Served]:
    """Start a registry that requires a user and a password."""
    known = tmp_path / "htpasswd"
    known.write_text(f"{USER}:{HASHED}\n")
    auth = f"auth: {{htpasswd: {{realm: ours, path: {known}}}}}\n"
    with servers.registry(tool("docker-registry"), tmp_path / "registry", auth) as served:
        yield served


def run(container: dict[str, Any], mounts: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    """Run a container as the kubelet would: rendered command, args and env; local folders only for its mounts."""
    assert {each["mountPath"] for each in container["volumeMounts"]} == set(mounts)

    def local_path(text: str) -> str:
        found = next((mount for mount in mounts if text == mount or text.startswith(mount + "/")), None)
        return str(mounts[found]) + text[len(found) :] if found else text

    (program,) = container["command"]
    return subprocess.run(
        [str(Path(sys.executable).parent / program), *map(local_path, container["args"])],
        env={"PATH": os.environ["PATH"], **{each["name"]: local_path(each["value"]) for each in container["env"]}},
        cwd=mounts["/tmp"], capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def test_the_init_container_fetches_what_the_server_serves(
    helm: Path, bundle: Path, registry: servers.Served, tmp_path: Path
) -> None:
    """Only the variant that it runs, from a registry with credentials."""
    folders = {name: tmp_path / name for name in ("bundle", "tmp", "state", "cache", "credentials")}
    for folder in folders.values():
        folder.mkdir()
    servers.docker_login(folders["credentials"], registry.port, USER, PASSWORD)
    address = f"oci://127.0.0.1:{registry.port}/team/minilm:v1"
    pushed = servers.embedship("push", bundle, address, "--json", DOCKER_CONFIG=str(folders["credentials"]))
    report = json.loads(pushed.communicate(timeout=SECONDS)[0])
    pull = {**FETCHED["bundle"]["pull"], "url": report["source"], "digest": report["digest"], "env": {}}
    pull["variant"] = Bundle.open(bundle).plain.name
    values = {**FETCHED, "bundle": {"source": "oci", "pull": pull}, "server": {"streams": 1, "shadow_rate": 0.0}}
    spec = one(render(helm, values), "Deployment")["spec"]["template"]["spec"]
    (init,) = spec["initContainers"]
    mounts = {f"/{name}": folders[name] for name in ("bundle", "tmp", "credentials")}
    assert run({**init, "env": []}, mounts).returncode == 1, "fails without the Secret"
    for _ in range(2):  # a pod with a claim, then the next pod with the same claim
        done = run(init, mounts)
        assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    (pulled,) = folders["bundle"].iterdir()
    assert Bundle.open(pulled).only == pull["variant"]
    asyncio.run(asyncio.wait_for(serves(spec, folders), SECONDS))


async def serves(spec: dict[str, Any], folders: dict[str, Path]) -> None:
    pod = Pod(spec, {f"/{name}": folders[name] for name in ("bundle", "tmp", "state", "cache")})
    try:
        await pod.start()
        await pod._passes("readinessProbe")
    finally:
        await pod.kill()


def test_every_pod_that_reads_the_bundle_fetches_it(helm: Path) -> None:
    found = dict(pods(render(helm, FETCHED)))
    assert len(found) == 4
    for name, pod in found.items():
        (init,) = pod["initContainers"]
        (main,) = pod["containers"]
        target = init["args"][init["args"].index("--out") + 1]
        assert any(each.startswith(target) for each in main["args"]), name
        mount = {each["name"]: each.get("readOnly", False) for each in (*init["volumeMounts"], *main["volumeMounts"])}
        assert mount["bundle"] is True, "the server must not change the verified bundle"
        assert "credentials" not in {each["name"] for each in main["volumeMounts"]}
        assert {"name": "credentials", "mountPath": "/credentials", "readOnly": True} in init["volumeMounts"]


def test_two_bundles_on_one_claim_do_not_meet(helm: Path) -> None:
    """A rolling update downloads the new bundle while the old one is still served."""

    def target(digest: str) -> str:
        pull = {**FETCHED["bundle"]["pull"], "digest": "sha256:" + digest * 64, "claimName": "bundles"}
        pod = one(render(helm, {**FETCHED, "bundle": {"source": "oci", "pull": pull}}), "Deployment")
        spec = pod["spec"]["template"]["spec"]
        assert {"name": "bundle", "persistentVolumeClaim": {"claimName": "bundles"}} in spec["volumes"]
        found: str = spec["containers"][0]["args"][1]
        return found

    assert target("a") != target("b")


@pytest.mark.parametrize(("source", "url"), [
    ("s3", "s3://models/minilm"), ("hf", "hf://team/minilm@v1"),
])  # fmt: skip
def test_other_credentials_are_variables(helm: Path, source: str, url: str) -> None:
    pull = {**FETCHED["bundle"]["pull"], "url": url, "env": {"AWS_REGION": "eu-central-1"}}
    spec = one(render(helm, {**FETCHED, "bundle": {"source": source, "pull": pull}}), "Deployment")["spec"]["template"]
    (init,) = spec["spec"]["initContainers"]
    assert init["envFrom"] == [{"secretRef": {"name": "registry"}}]
    assert {"name": "AWS_REGION", "value": "eu-central-1"} in init["env"]
    assert "envFrom" not in spec["spec"]["containers"][0], "the server has no credentials"
    assert init["args"][1] == url


def test_a_reranker_is_downloaded_like_the_bundle(helm: Path) -> None:
    pull = {"url": "oci://registry.example/team/ranker:v1", "digest": "sha256:" + "c" * 64, "variant": "onnx"}
    values = {**FETCHED, "reranker": {"enabled": True, "pull": pull}}
    container = one(render(helm, values), "Deployment")["spec"]["template"]["spec"]
    bundle, ranker = container["initContainers"]
    assert bundle["args"][1] == FETCHED["bundle"]["pull"]["url"]
    assert ranker["args"][1:] == [
        pull["url"], "--out", "/reranker/bundle", "--digest", pull["digest"], "--force", "--variant", "onnx"
    ]  # fmt: skip
    assert {"name": "credentials", "mountPath": "/credentials", "readOnly": True} in ranker["volumeMounts"]
    main = container["containers"][0]
    assert {"name": "EMBEDSHIP_RERANKER", "value": "/reranker/bundle"} in main["env"]
    assert {"name": "reranker", "mountPath": "/reranker", "readOnly": True} in main["volumeMounts"]
    volumes = {each["name"]: each for each in container["volumes"]}
    assert volumes["reranker"] == {"name": "reranker", "emptyDir": {"sizeLimit": "4Gi"}}
    on_a_claim = {**values, "bundle": {"pull": {"secret": "registry"}}, "check": {}}
    alone = one(render(helm, on_a_claim), "Deployment")
    assert [each["name"] for each in alone["spec"]["template"]["spec"]["initContainers"]] == ["pull-reranker"]
    assert "credentials" in {each["name"] for each in alone["spec"]["template"]["spec"]["volumes"]}


def test_a_variant_is_what_is_downloaded_and_served(helm: Path) -> None:
    pull = {**FETCHED["bundle"]["pull"], "variant": "openvino-int8"}
    values = {**FETCHED, "bundle": {"source": "oci", "pull": pull}}
    for name, pod in pods(render(helm, values)):
        (init,) = pod["initContainers"]
        assert init["args"][-2:] == ["--variant", "openvino-int8"], name
        assert init["args"][3].endswith("-openvino-int8"), "another variant of the bundle has another folder"
    assert render(helm, {**values, "server": {"variant": "openvino-int8"}})


def test_the_network_lets_pods_fetch(helm: Path) -> None:
    objects = render(helm, FETCHED)
    for suffix in ("-server", "-jobs"):
        egress = one(objects, "NetworkPolicy", suffix)["spec"]["egress"]
        assert {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]} in egress


def test_the_time_to_fetch_is_time_to_start(helm: Path) -> None:
    slow = {**FETCHED["bundle"]["pull"], "maxSeconds": 5_000}
    objects = render(helm, {**FETCHED, "bundle": {"source": "oci", "pull": slow}})
    assert one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] > 5_000
    for suffix in ("-check", "-drift"):
        assert one(objects, "CronJob", suffix)["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 5_000


def test_the_canary_fetches_its_own(helm: Path) -> None:
    new = {"url": "oci://registry.example/team/minilm:v2", "digest": "sha256:" + "b" * 64}
    canary = {"enabled": True, "bundle": new, "compare": {"claimName": "queries"}}
    objects = render(helm, {**FETCHED, "canary": canary})
    for suffix, digest in (("embedship", "a"), ("-canary", "b")):
        (init,) = one(objects, "Deployment", suffix)["spec"]["template"]["spec"]["initContainers"]
        assert "sha256:" + digest * 64 in init["args"]
