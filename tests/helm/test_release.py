"""A release from install to uninstall as in docs/deploy.md, with both Helm versions and an in-memory API server."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .api_server import Cluster, Run
from .conftest import ROOT
from .local_pods import Pod
from .manifests import CHART, FETCHED

PAGE = (ROOT / "docs" / "deploy.md").read_text()
README = (CHART / "README.md").read_text()
NAME = "search-embedship"
IMAGE = ("--set", "image.repository=registry.example/embedship")

Helm = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def cluster(helm: Path, home: Path, run: Run = lambda pod: True) -> Iterator[tuple[Cluster, Helm]]:
    found = Cluster(run)
    with found.serving():
        file = found.kubeconfig(home / "kubeconfig")
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(file)}

        def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [helm, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
            )

        yield found, call


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in re.findall(r"^    (helm .+)$", text, re.MULTILINE)]


def done(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_page_from_install_to_uninstall(each_helm: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    with cluster(each_helm, tmp_path) as (api, helm):
        for command in commands(PAGE):
            done(helm(*command))
            seen.append(command[0])
            if command[0] == "template":
                continue
            if command[0] == "install":
                key = api.objects_of_kind("Secret")[f"{NAME}-keys"]["data"]["api-keys"]
                assert len(base64.b64decode(key).strip()) == 48
            assert api.objects_of_kind("Secret")[f"{NAME}-keys"]["data"]["api-keys"] == key, (
                f"{command[0]} made another key"
            )
            if command[0] == "rollback":
                assert claim(api) == "minilm"
            if "bundle.pvc.claimName=minilm-2" in command:
                assert claim(api) == "minilm-2"
            if "canary.enabled=true" in command:
                assert f"{NAME}-canary" in api.objects_of_kind("Deployment")
            if "canary.enabled=false" in command:
                assert f"{NAME}-canary" not in api.objects_of_kind("Deployment")
            if "canary.weight=50" in command:
                backends = api.objects_of_kind("HTTPRoute")[NAME]["spec"]["rules"][0]["backendRefs"]
                assert [(each["name"], each["weight"]) for each in backends] == [(NAME, 50), (f"{NAME}-canary", 50)]
    assert seen == [
        "template", "template", "template",
        "install", "test", "upgrade", "upgrade", "history", "rollback", "upgrade", "upgrade", "test", "upgrade",
        "upgrade", "upgrade", "upgrade", "upgrade", "upgrade", "upgrade", "template", "uninstall",
    ]  # fmt: skip
    assert set(api.objects_of_kind("Secret")) == {f"{NAME}-keys", f"{NAME}-admin"}, "kept"
    assert [path for path in api.objects if not path.endswith(("-keys", "-admin", "/embeddings"))] == []


def claim(api: Cluster) -> str:
    pod = api.objects_of_kind("Deployment")[NAME]["spec"]["template"]["spec"]
    found: str = next(each for each in pod["volumes"] if each["name"] == "bundle")["persistentVolumeClaim"]["claimName"]
    return found


def test_the_deployment_workflow(tool: Callable[[str], Path], tmp_path: Path) -> None:
    """The helm commands of docs/example/ci/github-deploy.yml: canary, comparison, share of the requests, promotion."""
    program = tool("helm-3.17")  # the version that the workflow installs
    workflow = yaml.safe_load((ROOT / "docs" / "example" / "ci" / "github-deploy.yml").read_text())
    new = {
        "source": "oci://r.example/m@sha256:" + "b" * 64,
        "digest": "sha256:" + "c" * 64,
        "image": "sha256:" + "d" * 64,
    }
    given = {
        "CHART": str(CHART), "RELEASE": workflow["env"]["RELEASE"], "WAIT": "",  # the API server starts no pods
        "BUNDLE_SOURCE": new["source"], "BUNDLE_DIGEST": new["digest"], "IMAGE_DIGEST": new["image"],
        "FINGERPRINT": "e" * 64, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "helm").symlink_to(program)
    runs = {step["name"]: step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    values = {
        **FETCHED,
        "image": {"repository": "r.example/embedship"},
        "auth": {"allowAnonymous": True},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
        "canary": {"compare": {"claimName": "queries"}},
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    with cluster(program, tmp_path) as (api, helm):
        done(helm("install", "search", str(CHART), "-n", "embeddings", "--values", str(tmp_path / "values.json")))

        def step(name: str) -> None:
            environment = {**given, "KUBECONFIG": str(tmp_path / "kubeconfig")}
            command = ["bash", "-euo", "pipefail", "-c", runs[name]]
            done(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False))

        step("start the canary")
        assert served(api, f"{NAME}-canary") == (new["source"], new["digest"], new["image"])
        step("compare it with the current server on real queries")
        step("send it a tenth of the requests")
        backends = api.objects_of_kind("HTTPRoute")[NAME]["spec"]["rules"][0]["backendRefs"]
        assert [each["weight"] for each in backends] == [90, 10]
        assert served(api, NAME)[0] == FETCHED["bundle"]["pull"]["url"]
        step("remove a canary that failed")
        assert f"{NAME}-canary" not in api.objects_of_kind("Deployment")
        step("start the canary")
        step("promote")
        assert set(api.objects_of_kind("Deployment")) == {NAME}
        assert served(api, NAME) == (new["source"], new["digest"], new["image"])
        step("test the release")


def served(api: Cluster, name: str) -> tuple[str, str, str]:
    """Return the bundle's address and digest, and the image's digest, of a Deployment."""
    pod = api.objects_of_kind("Deployment")[name]["spec"]["template"]["spec"]
    arguments = pod["initContainers"][0]["args"]
    image: str = pod["containers"][0]["image"]
    return arguments[1], arguments[arguments.index("--digest") + 1], image.partition("@")[2]


def test_the_charts_readme(each_helm: Path, tmp_path: Path) -> None:
    assert len(commands(README)) == 2
    with cluster(each_helm, tmp_path) as (_, helm):
        for command in commands(README):
            done(helm(*command))


def test_a_new_install_finds_the_kept_key(each_helm: Path, tmp_path: Path) -> None:
    install = ["install", "search", str(CHART), "--namespace", "e", *IMAGE, "--set", "auth.create=true"]
    with cluster(each_helm, tmp_path) as (api, helm):
        done(helm(*install))
        first = api.objects_of_kind("Secret")[f"{NAME}-keys"]["data"]
        annotations = pod_annotations(api)
        done(helm("uninstall", "search", "--namespace", "e"))
        done(helm(*install))
        assert api.objects_of_kind("Secret")[f"{NAME}-keys"]["data"] == first
        assert pod_annotations(api) == annotations, "an unchanged key restarts no pod"


def test_turning_autoscaling_on_keeps_what_runs(each_helm: Path, tmp_path: Path) -> None:
    """A patch without `replicas` would remove the field, and Kubernetes would then use 1."""
    with cluster(each_helm, tmp_path) as (api, helm):
        done(helm("install", "search", str(CHART), "--namespace", "e", *IMAGE, "--set", "replicas=5"))
        done(
            helm(
                "upgrade",
                "search",
                str(CHART),
                "--namespace",
                "e",
                "--reuse-values",
                "--set",
                "autoscaling.enabled=true",
            )
        )
        assert api.objects_of_kind("Deployment")[NAME]["spec"]["replicas"] == 5
        assert NAME in api.objects_of_kind("HorizontalPodAutoscaler")
        path = next(path for path, each in api.objects.items() if each.get("kind") == "Deployment")
        scaled = {**api.objects[path], "spec": {**api.objects[path]["spec"], "replicas": 7}}
        api.put(path, scaled)  # as the autoscaler would
        done(helm("upgrade", "search", str(CHART), "--namespace", "e", "--reuse-values", "--set", "drain.seconds=40"))
        assert api.objects_of_kind("Deployment")[NAME]["spec"]["replicas"] == 7


def test_other_keys_in_a_secret_of_ones_own_roll_the_pods(each_helm: Path, tmp_path: Path) -> None:
    given = ("--namespace", "e", *IMAGE, "--set", "auth.existingSecret=ours")
    with cluster(each_helm, tmp_path) as (api, helm):
        api.put("/api/v1/namespaces/e/secrets/ours", secret("b2xkCg=="))
        done(helm("install", "search", str(CHART), *given))
        before = pod_annotations(api)
        done(helm("upgrade", "search", str(CHART), *given))
        assert pod_annotations(api) == before, "unchanged keys restart no pod"
        api.put("/api/v1/namespaces/e/secrets/ours", secret("bmV3Cg=="))
        done(helm("upgrade", "search", str(CHART), *given))
        assert pod_annotations(api) != before


def test_the_notes_say_where_it_answers(helm: Path, tmp_path: Path) -> None:
    """NOTES.txt prints the address of each way of external access, or the command that prints it."""
    ways = {
        "https://s.example/": "ingress.enabled=true,ingress.host=s.example,ingress.tlsSecret=t",
        "://r.example/": "httpRoute.enabled=true,httpRoute.parentRefs[0].name=g,httpRoute.hostnames[0]=r.example",
        "loadBalancer.ingress[0].ip": "service.type=LoadBalancer,networkPolicy.enabled=false",
        "ADDRESS-OF-A-NODE:{.spec.ports[0].nodePort}": "service.type=NodePort,networkPolicy.enabled=false",
    }
    with cluster(helm, tmp_path) as (_, call):
        for number, (wanted, way) in enumerate(ways.items()):
            given = ("--namespace", "e", *IMAGE, "--set", "auth.create=true", "--set", way)
            assert wanted in done(call("install", f"s{number}", str(CHART), *given))
        two = "bundles.a.ingress.host=a.example,bundles.b.ingress.host=b.example,ingress.enabled=true"
        notes = done(
            call("install", "several", str(CHART), "--namespace", "e", *IMAGE, "--set", f"auth.create=true,{two}")
        )
        assert "http://a.example/" in notes
        assert "http://b.example/" in notes


def secret(keys: str) -> dict[str, Any]:
    meta = {"name": "ours", "namespace": "e"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {"api-keys": keys}}


def pod_annotations(api: Cluster) -> dict[str, str]:
    found: dict[str, str] = api.objects_of_kind("Deployment")[NAME]["spec"]["template"]["metadata"]["annotations"]
    return found


def test_autoscaled_replicas_are_left_alone(each_helm: Path, tmp_path: Path) -> None:
    base = [str(CHART), "--namespace", "e", *IMAGE, "--set", "autoscaling.enabled=true"]
    with cluster(each_helm, tmp_path) as (api, helm):
        done(helm("install", "search", *base))
        assert "replicas" not in api.objects_of_kind("Deployment")[NAME]["spec"]
        assert api.objects_of_kind("HorizontalPodAutoscaler")[NAME]["spec"]["maxReplicas"] == 8


def test_an_upgrade_with_a_typo_changes_nothing(each_helm: Path, tmp_path: Path) -> None:
    with cluster(each_helm, tmp_path) as (api, helm):
        done(helm("install", "search", str(CHART), "--namespace", "e", *IMAGE))
        before = len(api.changes)
        refused = helm("upgrade", "search", str(CHART), "--namespace", "e", "--set", "replicaCount=3")
        assert refused.returncode == 1
        assert "replicaCount" in refused.stderr
        assert len(api.changes) == before


def test_helm_test_asks_the_deployed_server(helm: Path, bundle: Path, tmp_path: Path) -> None:
    """Run the Deployment's pod and the test's pod as the API server received them."""
    folders = {f"/{name}": tmp_path / name for name in ("state", "cache", "tmp", "keys")}
    for folder in folders.values():
        folder.mkdir()
    mounts = {"/bundle": bundle, **folders}
    key, codes = folders["/keys"] / "api-keys", []

    def run(pod: dict[str, Any]) -> bool:
        key.write_bytes(base64.b64decode(api.objects_of_kind("Secret")[f"{NAME}-keys"]["data"]["api-keys"]))
        server = Pod(api.objects_of_kind("Deployment")[NAME]["spec"]["template"]["spec"], mounts)
        shown = key if not codes else tmp_path / "none"
        codes.append(asyncio.run(checked(server, pod["spec"]["containers"][0], bundle, shown)))
        return codes[-1] == 0

    with cluster(helm, tmp_path, run) as (api, call):
        done(call("install", "search", str(CHART), "--namespace", "e", *IMAGE, "--set", "auth.create=true"))
        assert "Succeeded" in done(call("test", "search", "--namespace", "e"))
        assert call("test", "search", "--namespace", "e").returncode == 1, "fails without the key"
    assert codes == [0, 2]


async def checked(pod: Pod, container: dict[str, Any], bundle: Path, key: Path) -> int:
    """Return the exit code of the test's container, with the local address and local folders."""
    try:
        await pod.start()
        local_arguments = {f"http://{NAME}:80": pod.url, "/bundle": str(bundle), "/keys/api-keys": str(key)}
        arguments = [local_arguments.get(each, each) for each in container["args"]]
        assert set(local_arguments) <= set(container["args"])
        command = [str(Path(sys.executable).parent / container["command"][0]), *arguments]
        process = await asyncio.create_subprocess_exec(*command)
        return await process.wait()
    finally:
        await pod.kill()
