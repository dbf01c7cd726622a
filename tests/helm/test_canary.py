"""A canary with a new bundle: rendered, compared by the rendered command over real servers, and promoted."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from embedship import stdlib_docs

from .local_pods import Pod
from .manifests import CANARY, Refused, one, render, server

NAME = "search-embedship"
PLAIN = {"enabled": True, "bundle": {"claimName": "bundle-2"}, "compare": {"claimName": "queries", "minQueries": 40}}
SECONDS = 200


def values(**canary: Any) -> dict[str, Any]:
    return {"canary": {**PLAIN, **canary}, "server": {"streams": 1, "shadow_rate": 0.0, "variant": "onnx"}}


def test_the_canary_is_the_server_but_for_what_is_new(helm: Path) -> None:
    objects = render(helm, CANARY)
    old, new = one(objects, "Deployment", "embedship"), one(objects, "Deployment", "-canary")
    pods = [each["spec"]["template"]["spec"] for each in (old, new)]
    claims = [
        {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        for pod in pods
    ]
    assert claims == [
        {"bundle": "embedship-bundle", "index": "index"}, {"bundle": "bundle-2", "index": "index-2"},
    ]  # fmt: skip
    assert pods[0]["containers"] == pods[1]["containers"]
    notes = [each["spec"]["template"]["metadata"]["annotations"] for each in (old, new)]
    assert notes[1].pop("embedship/fingerprint") == "2" * 64
    assert notes[0] == notes[1], "both use one key, so the checksums are equal"
    assert new["spec"]["replicas"] == 1


def test_each_service_has_its_own_pods(helm: Path) -> None:
    """The old Service must not send requests to the canary, because that would bypass the weight."""
    objects = render(helm, CANARY)
    for suffix in ("embedship", "-canary"):
        selector = one(objects, "Service", suffix)["spec"]["selector"]
        assert selector == one(objects, "Deployment", suffix)["spec"]["selector"]["matchLabels"]
        watched = one(objects, "ServiceMonitor", suffix)["spec"]["selector"]["matchLabels"]
        assert watched.items() <= one(objects, "Service", suffix)["metadata"]["labels"].items()
    selectors = [one(objects, "Service", suffix)["spec"]["selector"] for suffix in ("embedship", "-canary")]
    assert {each["app.kubernetes.io/component"] for each in selectors} == {"server", "canary"}
    policy = one(objects, "NetworkPolicy", "-server")["spec"]["podSelector"]["matchExpressions"]
    assert policy[0]["values"] == ["server", "canary"], "the policy also covers the canary"


@pytest.mark.parametrize("weight", [0, 10, 100])
def test_weights(helm: Path, weight: int) -> None:
    objects = render(helm, {**CANARY, "canary": {**CANARY["canary"], "weight": weight}})
    (rule,) = one(objects, "HTTPRoute")["spec"]["rules"]
    assert {each["name"]: each["weight"] for each in rule["backendRefs"]} == {
        NAME: 100 - weight, f"{NAME}-canary": weight,
    }  # fmt: skip
    notes = one(objects, "Ingress", "-canary")["metadata"]["annotations"]
    assert notes == {
        "nginx.ingress.kubernetes.io/canary": "true", "nginx.ingress.kubernetes.io/canary-weight": str(weight),
    }  # fmt: skip


def test_without_a_canary_there_is_none(helm: Path) -> None:
    assert "canary" not in json.dumps([each for each in render(helm) if each["kind"] != "NetworkPolicy"])


RELEASE: dict[str, Any] = {
    "bundle": {"path": "v1", "pvc": {"claimName": "bundle-1"}},
    "index": {"enabled": True, "claimName": "index-1", "path": "v1"},
    "image": {"tag": "0.1.0"},
    "auth": {"create": True},
}


@pytest.mark.parametrize("own", [
    {}, {"bundle": {"fingerprint": "2" * 64}}, {"bundle": {"claimName": "bundle-1"}}, {"bundle": {"path": "v1"}},
    {"index": {"claimName": "index-1", "path": "v1"}}, {"image": {"tag": "0.1.0"}}, {"weight": 10, "replicas": 2},
])  # fmt: skip
def test_a_canary_that_is_the_servers_twin_is_refused(each_helm: Path, own: dict[str, Any]) -> None:
    """A server compared with itself always passes, whatever the quality of the new bundle."""
    canary = {"enabled": True, "compare": {"claimName": "queries"}, **own}
    with pytest.raises(Refused, match=r"set canary\.bundle, canary\.index or canary\.image"):
        render(each_helm, {**RELEASE, "ingress": {"enabled": True, "className": "nginx"}, "canary": canary})


@pytest.mark.parametrize("own", [
    {"bundle": {"claimName": "bundle-2"}}, {"bundle": {"path": "v2"}}, {"index": {"claimName": "index-2"}},
    {"index": {"path": "v2"}}, {"image": {"tag": "0.2.0"}}, {"image": {"digest": "sha256:" + "2" * 64}},
])  # fmt: skip
def test_one_new_thing_makes_a_canary(helm: Path, own: dict[str, Any]) -> None:
    canary = {"enabled": True, "compare": {"claimName": "queries"}, **own}
    objects = render(helm, {**RELEASE, "canary": canary})
    old, new = (one(objects, "Deployment", suffix)["spec"]["template"]["spec"] for suffix in ("embedship", "-canary"))
    assert old != new


@pytest.mark.parametrize(("image", "own"), [
    ({}, {"tag": "0.1.0"}), ({"digest": "sha256:" + "1" * 64}, {"tag": "0.2.0", "digest": "sha256:" + "1" * 64}),
])  # fmt: skip
def test_an_image_by_another_name_is_no_new_one(helm: Path, image: dict[str, str], own: dict[str, str]) -> None:
    """The default tag is the chart's appVersion, and a digest overrides a tag."""
    canary = {"enabled": True, "compare": {"claimName": "queries"}, "image": own}
    with pytest.raises(Refused, match="the same bundle, index and image"):
        render(helm, {"image": image, "canary": canary})


def test_argo_runs_the_test_s_command(helm: Path) -> None:
    objects = render(helm, CANARY)
    (metric,) = one(objects, "AnalysisTemplate")["spec"]["metrics"]
    job = metric["provider"]["job"]["spec"]["template"]["spec"]
    given = {each["name"]: each["value"] for each in one(objects, "AnalysisTemplate")["spec"]["args"]}
    text = json.dumps(job)
    for name, value in given.items():
        text = text.replace(f"{{{{args.{name}}}}}", value)
    assert json.loads(text) == one(objects, "Pod", "-compare")["spec"]
    assert (metric["count"], metric["failureLimit"]) == (1, 0)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    folder = tmp_path / "queries"
    folder.mkdir()
    texts = dict.fromkeys(entry.summary for entry in stdlib_docs.entries(60))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def mounts(bundle: Path, folder: Path) -> dict[str, Path]:
    """Return local folders for the volumes of one pod."""
    found = {f"/{name}": folder / name for name in ("state", "cache", "tmp")}
    for each in found.values():
        each.mkdir(parents=True)
    return {"/bundle": bundle, **found}


async def compared(objects: list[dict[str, Any]], pods: dict[str, dict[str, Path]], queries: Path) -> tuple[int, str]:
    """Run both Deployments' pods as processes; return the exit code and output of the rendered comparison."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for suffix, mounted in pods.items():
            deployment = one(objects, "Deployment", suffix)
            pod = Pod(deployment["spec"]["template"]["spec"], mounted)
            stack.push_async_callback(pod.kill)
            await pod.start()
            addresses[f"http://{deployment['metadata']['name']}:80"] = pod.url
        container = one(objects, "Pod", "-compare")["spec"]["containers"][0]
        local_arguments = {**addresses, "/queries/queries.jsonl": str(queries / "queries.jsonl")}
        assert set(local_arguments) <= set(container["args"])
        command = [str(Path(sys.executable).parent / container["command"][0])]
        command += [local_arguments.get(each, each) for each in container["args"]]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, (out + error).decode()


def outcome(helm: Path, bundle: Path, new: Path, queries: Path, folder: Path, **canary: Any) -> tuple[int, str]:
    objects = render(helm, values(**canary))
    pods = {"embedship": mounts(bundle, folder / "old"), "-canary": mounts(new, folder / "new")}
    return asyncio.run(asyncio.wait_for(compared(objects, pods, queries), SECONDS))


def test_a_good_bundle_is_promoted(helm: Path, bundle: Path, queries: Path, tmp_path: Path) -> None:
    """First weight 0 and the comparison, then a share, then the release takes the bundle and the canary is gone."""
    code, output = outcome(helm, bundle, bundle, queries, tmp_path, compare={**PLAIN["compare"], "maxLatency": 50})
    assert code == 0, output
    assert "NEW may replace OLD" in output
    promoted = render(helm, {"bundle": {"pvc": {"claimName": "bundle-2"}}})
    volumes = one(promoted, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["persistentVolumeClaim"]["claimName"] == "bundle-2"
    assert server(promoted)["args"] == server(render(helm, values()))["args"]


def test_a_bad_bundle_is_refused(helm: Path, bundle: Path, coarse: Path, queries: Path, tmp_path: Path) -> None:
    """The damaged bundle starts, becomes ready, passes its own golden texts, and claims to be the same model."""
    code, output = outcome(helm, bundle, coarse, queries, tmp_path)
    assert code == 3, output
    assert "NEW may not replace OLD" in output


def test_another_model_is_refused(helm: Path, bundle: Path, stranger: Path, queries: Path, tmp_path: Path) -> None:
    code, output = outcome(helm, bundle, stranger, queries, tmp_path)
    assert code == 3, output
    assert "NEW is another model" in output
