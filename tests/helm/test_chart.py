"""What the chart renders with both Helm versions and three Kubernetes versions, and its generated parts."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedship.serve.settings import RANGES, Settings, variable

from .conftest import ROOT
from .manifests import (
    ANYBODY,
    CANARY,
    CHART,
    EVERYTHING,
    FETCHED,
    POOL,
    VERSIONS,
    ZERO,
    Refused,
    faults,
    one,
    pods,
    render,
    server,
    text,
)


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, CANARY, FETCHED], ids=["default", "everything", "canary", "fetched"]
)
def test_both_helms_lint_it(each_helm: Path, values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    command = [each_helm, "lint", "--strict", CHART, "--values", file]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "values",
    [{}, {**EVERYTHING, "auth": ANYBODY}, {**CANARY, "auth": ANYBODY}, FETCHED],
    ids=["default", "everything", "canary", "fetched"],
)
def test_both_helms_render_the_same(values: dict[str, Any], tool: Callable[[str], Path]) -> None:
    by = [render(tool(name), values) for name in ("helm", "helm-3.17")]
    for objects in by:
        objects.sort(key=lambda each: (each["kind"], each["metadata"]["name"]))
    assert by[0] == by[1]


@pytest.mark.parametrize("version", [*VERSIONS, "1.28", "1.31", "1.35"])
def test_kubernetes_takes_all_of_it(helm: Path, version: str) -> None:
    kinds = set()
    for values in ({}, EVERYTHING, CANARY, FETCHED, {"autoscaling": {"enabled": True}}):
        for each in render(helm, values, version):
            kinds.add(each["kind"])
            assert faults(each, version) == [], each["metadata"]["name"]
    assert kinds == {
        "AnalysisTemplate", "ConfigMap", "CronJob", "Deployment", "HTTPRoute", "HorizontalPodAutoscaler", "Ingress",
        "Job", "NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "PrometheusRule", "RayJob",
        "ScaledObject", "Secret", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet",
    }  # fmt: skip


def test_what_kubernetes_does_not_know_is_a_fault(helm: Path) -> None:
    objects = render(helm, EVERYTHING)
    for kind, key in [("StatefulSet", "replicaz"), ("ServiceMonitor", "endpointz"), ("HTTPRoute", "rulez")]:
        each = one(objects, kind)
        each["spec"][key] = 1
        assert faults(each, "1.33"), kind
    template = one(render(helm, CANARY), "AnalysisTemplate")
    (metric,) = template["spec"]["metrics"]
    for place in (template["spec"], metric, metric["provider"]["job"]["spec"]["template"]["spec"]["containers"][0]):
        place["typpo"] = 1
        assert faults(template, "1.33"), place
        del place["typpo"]
    job = one(objects, "RayJob")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    for place in (job["spec"], head, head["template"]["spec"]["containers"][0]):
        place["typpo"] = "1"
        assert faults(job, "1.33"), place
        del place["typpo"]
    one(objects, "ScaledObject")["spec"]["triggers"][0]["metrictype"] = "Value"
    assert faults(one(objects, "ScaledObject"), "1.33")
    with pytest.raises(FileNotFoundError):
        faults({"apiVersion": "apps/v1", "kind": "Deploymint"}, "1.33")


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("chart", ROOT / "tools" / "chart.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_from_elsewhere_is_in_step() -> None:
    for name, wanted in generator().files().items():
        assert (CHART / name).read_text() == wanted, f"run `make chart`: helm/embedship/{name} is behind its source"


def templates() -> str:
    return "".join(path.read_text() for path in sorted((CHART / "templates").rglob("*")) if path.is_file())


def test_every_value_is_used() -> None:
    used = templates()
    for value in generator().values():
        name = re.escape(value.key.rsplit(".", 1)[-1])
        assert re.search(rf'[."]{name}\b', used), f"{value.key} changes nothing"


def test_every_setting_is_the_servers() -> None:
    known = {variable(name) for name in Settings.__dataclass_fields__}
    given = set(re.findall(r"EMBEDSHIP_[A-Z_]+", templates()))
    assert given <= known | {"EMBEDSHIP_MILVUS_TOKEN"}, "a secret is not a setting"


def test_settings_reach_the_server_as_they_are(helm: Path) -> None:
    given = {name: int(allowed.high) for name, allowed in RANGES.items() if allowed.high >= 10_000}
    owned = generator().OWNED
    given = {name: value for name, value in given.items() if name not in owned}
    assert given["max_body_bytes"] == 1_073_741_824, "a template would print a float as 1.073741824e+09"
    env = {e["name"]: e["value"] for e in server(render(helm, {"server": {**given, "shadow_rate": 0.05}}))["env"]}
    assert {variable(name): str(value) for name, value in given.items()}.items() <= env.items()
    assert env["EMBEDSHIP_SHADOW_RATE"] == "0.05"
    taken_back = server(render(helm, {"server": {"max_texts": None}}))["env"]
    assert "EMBEDSHIP_MAX_TEXTS" not in {each["name"] for each in taken_back}


@pytest.mark.parametrize("seconds", [6, 30, 31, 120, 3580])
@pytest.mark.parametrize("version", ["1.29", "1.30"])
def test_one_number_gives_the_whole_drain(helm: Path, seconds: int, version: str) -> None:
    objects = render(helm, {"drain": {"seconds": seconds}}, version)
    container = server(objects)
    env = {each["name"]: each["value"] for each in container["env"]}
    sleep = container.get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]["seconds"]
    assert (sleep > 0) == (version == "1.30"), "Kubernetes supports the sleep from 1.30 on"
    assert sleep + int(env["EMBEDSHIP_DRAIN_SECONDS"]) == seconds
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == seconds + 20, "required by --drain-seconds"


@pytest.mark.parametrize("seconds", [10, 301, 3_600])
def test_one_number_gives_the_whole_start(helm: Path, seconds: int) -> None:
    objects = render(helm, {"startup": {"maxSeconds": seconds}})
    probe = server(objects)["startupProbe"]
    assert 0 <= probe["periodSeconds"] * probe["failureThreshold"] - seconds <= 1
    assert one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] > seconds


def fetched(**more: dict[str, Any]) -> dict[str, Any]:
    return {**FETCHED, **{key: {**FETCHED.get(key, {}), **value} for key, value in more.items()}}


BULK: dict[str, Any] = EVERYTHING["bulkRay"]
MILVUS = {"enabled": True, "milvus": {"address": "milvus://db.example:19530/faq", "secret": "line"}}

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"bundle": {"pvc": {"claimName": ""}}}, "set it to the claim that contains the bundle"),
    ({"bundle": {"source": "baked"}}, "set it to the bundle's folder in the image"),
    ({"bundle": {"source": "image"}}, "set it to the image that contains the bundle"),
    ({"bundle": {"source": "s3", "pull": {"url": "oci://a/b:c"}}}, "use an address that begins with s3://"),
    ({"bundle": {"source": "hf", "pull": {"url": "hf://a/b"}}}, "set it to the digest that `embedship push` prints"),
    (fetched(bundle={"path": "a"}), "leave bundle.path empty"),
    (fetched(networkPolicy={"offline": True}), "set networkPolicy.offline to false"),
    (fetched(canary={"enabled": True, "bundle": {"claimName": "a"}}), "set canary.bundle.url"),
    ({"canary": {"enabled": True, "bundle": {"url": "oci://a/b:c"}}}, "canary.bundle.digest is empty"),
    ({"canary": {"enabled": True, "bundle": {"image": "a"}}}, "canary.bundle.image requires bundle.source image"),
    ({"canary": {"enabled": True, "bundle": {"digest": "sha256:" + "0" * 64}}}, "require a downloaded bundle"),
    ({"canary": {"enabled": True, "index": {"claimName": "a"}}}, "but index.enabled is false"),
    ({"bundles": {"a": {}}, "canary": {"enabled": True}}, "canary requires a release with one bundle"),
    ({"auth": ANYBODY, "bundles": {"a": {}, "b": {}}, "ingress": {"enabled": True}}, "use the same address"),
    ({"bundles": {"a": {"bundle": {"path": "../keys"}}}}, "must not contain '..'"),
    ({"bundle": {"path": "../keys"}}, "must not contain '..'"),
    ({"index": {"enabled": True}}, "set it to the claim that contains the index"),
    ({"index": {**MILVUS, "claimName": "a"}}, "are mutually exclusive: the index is either in Milvus or in a claim"),
    ({"index": MILVUS}, "index.milvus.address is set, but the NetworkPolicy blocks the connection"),
    (
        {
            "index": MILVUS,
            "networkPolicy": {"enabled": False},
            "canary": {"enabled": True, "index": {"claimName": "a"}, "compare": {"claimName": "q"}},
        },
        "search the old collection",
    ),
    ({"reranker": {"enabled": True}}, "set the claim that contains the re-ranker bundle"),
    ({"reranker": {"path": "../x"}}, "must not contain '..'"),
    ({"auth": {"create": True, "existingSecret": "mine"}}, "are mutually exclusive"),
    ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "lower the minimum or raise the maximum"),
    ({"autoscaling": {"enabled": True, "kind": "keda"}}, "set it to the address of Prometheus"),
    ({"auth": ANYBODY, "httpRoute": {"enabled": True}}, "add the Gateway"),
    ({"auth": ANYBODY, "ingress": {"enabled": True, "tlsSecret": "x"}}, "set the host of the certificate"),
    ({"driftReport": {"enabled": True}}, "set it to the claim that contains the query log"),
    ({"metrics": {"ownPort": True}, "service": {"port": 9090}}, "choose another service.port"),
    ({"auth": {"admin": {"create": True, "existingSecret": "mine"}}}, "are mutually exclusive"),
    ({"canary": {"enabled": True}}, "set it to the claim that contains real queries"),
    ({"canary": {"enabled": True, "index": {"path": "../x"}}}, "must not contain '..'"),
    ({"canary": {"enabled": True, "weight": 1, "compare": {"claimName": "q"}}}, "a Service cannot split requests"),
    ({"canary": {"enabled": True, "compare": {"claimName": "q"}}}, "has the same bundle, index and image"),
    ({"gpu": {"enabled": True}}, "with server.devices auto the server runs on the CPU: set server.devices: cuda:0"),
    ({"backup": {"enabled": True, "claims": ["a"]}}, "set it to the claim that stores the copies"),
    ({"backup": {"enabled": True, "claimName": "a"}}, "list the claims to copy"),
    ({"backup": {"enabled": True, "claimName": "a", "claims": ["a"]}}, "a claim cannot be copied into itself"),
    ({"networkPolicy": {"egress": [{"ports": [{"port": 1}]}]}}, "set networkPolicy.offline to false, or empty"),
    ({"bulkRay": {"enabled": True}}, "bulkRay.claimName is empty: set it to the claim that stores the vectors"),
    ({"bulkRay": BULK, "bundles": {"a": {}, "b": {}}}, "bulkRay requires a release with one bundle"),
    ({"bulkRay": {**BULK, "source": "s3://texts/in.jsonl"}}, "is in S3, but the NetworkPolicy blocks"),
]


WRITABLE: dict[str, Any] = {
    "index": {"enabled": True, "claimName": "i", "path": "v1"}, "replicas": 1, "server": {"writable": True},
}  # fmt: skip
FETCH = EVERYTHING["fetch"]
CONTRADICTIONS += [
    ({"image": {"repository": ""}}, "image.repository is empty and no image is published"),
    ({"ingress": {"enabled": True}}, "no API key is configured: set auth.create"),
    ({"service": {"type": "NodePort"}, "auth": {"create": True}}, "blocks all clients outside the cluster"),
    ({"service": {"nodePort": 30000}}, "service.nodePort requires"),
    ({"service": {"externalTrafficPolicy": "Local"}}, "service.externalTrafficPolicy requires"),
    ({"service": {"loadBalancerClass": "x"}}, "require service.type LoadBalancer"),
    ({**WRITABLE, "replicas": 2}, "only one process can write an index: set replicas to 1"),
    (
        {**WRITABLE, "canary": {"enabled": True, "compare": {"claimName": "q"}, "image": {"tag": "2"}}},
        "set canary.index.claimName to a separate claim",
    ),
    ({**WRITABLE, "index": {"enabled": True, "claimName": "i"}}, "index.path is empty: set it to a folder"),
    ({**WRITABLE, "strategy": {"type": "RollingUpdate"}}, "Leave strategy empty"),
    ({"server": {"writable": True}}, "there is no index to write to"),
    ({**WRITABLE, "signature": {"configMap": "k"}}, "changes of documents are not signed"),
    (
        {"signature": {"configMap": "k"}, "index": {"enabled": True, "milvus": {"address": "milvus://m:1/faq"}}},
        "an index in Milvus has no signature",
    ),
    ({"drain": {"seconds": 10, "preStopSeconds": 10}}, "set drain.preStopSeconds below drain.seconds"),
    (
        {**CANARY, "ingress": {"enabled": True, "className": "traefik"}},
        'ingress.className is "traefik": use httpRoute',
    ),
    ({"auth": {"write": {"create": True, "existingSecret": "s"}}}, "auth.write.create and auth.write.existingSecret"),
    (
        {**{key: EVERYTHING[key] for key in ("bulkRay",)}, "networkPolicy": {"enabled": False}}
        | {"bulkRay": {**EVERYTHING["bulkRay"], "token": False}},
        "any client that reaches the Ray head node can run code on it",
    ),
    (
        {**FETCHED, "bundle": {"source": "s3", "pull": {"url": "s3://b/m", "digest": "sha256:" + "0" * 64,
                                                        "ca": {"configMap": "ca"}}}},
        "S3 downloads trust public certificate authorities only",
    ),
    ({"bundle": {"pull": {"ca": {"configMap": "a", "secret": "b"}}}}, "bundle.pull.ca.configMap and"),
    ({"fetch": {**FETCH, "claim": {}}}, "fetch.claim.name is empty"),
    ({"fetch": {**FETCH, "bundles": []}}, "fetch.bundles is empty"),
    (
        {"fetch": {**FETCH, "bundles": [*FETCH["bundles"], {**FETCH["bundles"][0], "url": "s3://b/m"}]},
         "bundle": {"pull": {"secret": "s"}}},
        "uses several kinds of source (oci, s3)",
    ),
    ({"fetch": {**FETCH, "egress": []}}, "the Job's NetworkPolicy allows no destination"),
    ({"fetch": FETCH, "bundles": {"a": {}}}, "it fills one claim for one release"),
]  # fmt: skip


RANKER = {"url": "oci://registry.example/team/ranker:v1", "digest": "sha256:" + "c" * 64}
ONE_VARIANT = {"source": "oci", "pull": {**FETCHED["bundle"]["pull"], "variant": "openvino-int8"}}
CONTRADICTIONS += [
    ({**FETCHED, "reranker": {"enabled": True, "pull": RANKER, "claimName": "r"}}, "leave both empty"),
    ({**FETCHED, "reranker": {"enabled": True, "pull": {**RANKER, "digest": ""}}}, "reranker.pull.digest is empty"),
    ({"reranker": {"enabled": True, "pull": RANKER}}, "the NetworkPolicy blocks the download"),
    ({**FETCHED, "reranker": {"enabled": True, "pull": {**RANKER, "url": "s3://models/ranker"}}}, "use one kind"),
    ({**FETCHED, "bundle": ONE_VARIANT, "server": {"variant": "onnx"}}, "only the first is downloaded"),
    ({**ZERO, "autoscaling": {"enabled": True, "kind": "http"}}, "autoscaling.http.hosts is empty"),
    ({**ZERO, "ingress": {"enabled": True, "host": "a.example"}}, "use httpRoute"),
    ({**CANARY, **ZERO, "ingress": {}}, "set canary.weight to 0"),
    ({**ZERO, "check": {"schedule": "0 * * * *"}}, "the check fails while there are no servers"),
    ({**ZERO, **POOL}, "requests go to the interceptor"),
    ({**CANARY, **POOL, "ingress": {}}, "inferencePool cannot be combined with canary"),
    ({"inferencePool": {"enabled": True}}, "endpointPicker.name is empty"),
    ({"exclusiveCpus": True, "resources": {"limits": {"cpu": "1500m"}}}, 'is "1500m": set a whole number'),
    ({"exclusiveCpus": True, "resources": {"limits": {"memory": None}}}, "resources.limits.memory is empty"),
    ({"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "count everything twice"),
]


@pytest.mark.parametrize(("values", "sentence"), CONTRADICTIONS)
def test_a_contradiction_is_a_sentence(helm: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=re.escape(sentence)):
        render(helm, values)


def test_every_contradiction_is_tried(helm: Path) -> None:
    messages = re.findall(r'fail (?:\(printf )?"', (CHART / "templates" / "_contradictions.tpl").read_text())
    assert len(messages) == len(CONTRADICTIONS), "two messages have two cases, two more are tested below"
    with pytest.raises(Refused, match="changes of documents are not signed"):
        render(helm, {**WRITABLE, "server": {"writable": True, "digests": "sha256:0"}})
    with pytest.raises(Refused, match=r"Kubernetes v?1\.30.* does not support it \(1\.31 or newer is required\)"):
        render(helm, {"service": {"trafficDistribution": "PreferClose"}}, "1.30")
    image = {"bundle": {"source": "image", "image": {"reference": "registry/bundle@sha256:" + "0" * 64}}}
    with pytest.raises(Refused, match="has no image volumes"):
        render(helm, image, "1.30")
    volumes = one(render(helm, image, "1.31"), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["image"]["reference"].startswith("registry/bundle@")


def test_an_index_in_milvus_needs_no_volume(helm: Path) -> None:
    egress = [{"to": [{"podSelector": {}}], "ports": [{"port": 19530}]}]
    values = {"index": MILVUS, "networkPolicy": {"offline": False, "egress": egress}}
    pod = one(render(helm, values), "Deployment")["spec"]["template"]["spec"]
    env = {each["name"]: each for each in pod["containers"][0]["env"]}
    assert env["EMBEDSHIP_INDEX"]["value"] == MILVUS["milvus"]["address"]
    assert env["EMBEDSHIP_MILVUS_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "line", "key": "token"}
    assert "index" not in {volume["name"] for volume in pod["volumes"]}


def test_autoscaling_owns_replicas(helm: Path) -> None:
    assert one(render(helm), "Deployment")["spec"]["replicas"] == 2
    for kind in ("hpa", "keda"):
        scaling = {"enabled": True, "kind": kind, "keda": {"prometheus": "http://p:9090"}}
        assert "replicas" not in one(render(helm, {"autoscaling": scaling}), "Deployment")["spec"]


def test_a_gpu_is_not_waited_for(helm: Path) -> None:
    mig = {"enabled": True, "resource": "nvidia.com/mig-1g.10gb", "count": 2, "runtimeClassName": "nvidia"}
    spec = one(render(helm, {"gpu": mig, "server": {"devices": "cuda:0,cuda:1"}}), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    pod = spec["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 2
    assert pod["containers"][0]["image"].endswith("-gpu")
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    cpu = one(render(helm), "Deployment")["spec"]
    assert cpu["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "nvidia" not in json.dumps(cpu)


@pytest.mark.parametrize("devices", ["auto", "cpu", "cpu:0,cpu:1", None, ""])
def test_a_gpu_that_nothing_would_use_is_not_taken(helm: Path, devices: str | None) -> None:
    for values in ({"server": {"devices": devices}}, {"bundles": {"legal": {"server": {"devices": devices}}}}):
        with pytest.raises(Refused, match=r"set server\.devices: cuda:0"):
            render(helm, {"gpu": {"enabled": True}, **values})
        assert render(helm, values), "allowed without a GPU"


@pytest.mark.parametrize("devices", ["cuda:0", "cuda:0,cuda:1", "tensorrt:0", "gpu:0"])
def test_a_gpu_is_used(helm: Path, devices: str) -> None:
    container = server(render(helm, {"gpu": {"enabled": True}, "server": {"devices": devices}}))
    assert {"name": "EMBEDSHIP_DEVICES", "value": devices} in container["env"]


@pytest.mark.parametrize("values", [EVERYTHING, CANARY, FETCHED], ids=["everything", "canary", "fetched"])
def test_every_pod_may_run_where_it_has_to(helm: Path, values: dict[str, Any]) -> None:
    """On a tainted node pool. A pod that is scheduled there without a toleration would wait forever."""
    pool = {"key": "pool", "operator": "Equal", "value": "search", "effect": "NoSchedule"}
    values = {**values, "nodeSelector": {"pool": "search"}, "tolerations": [pool]}
    made = list(pods(render(helm, values)))
    assert [name for name, pod in made if pod.get("nodeSelector") != {"pool": "search"}] == []
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    for name, pod in made:
        takes_gpu = name.startswith("StatefulSet") and "gpu" in values
        assert pod.get("tolerations") == [pool, *([gpu] if takes_gpu else [])], name
    assert text(helm, values).count(" tolerations:") == len(made), "once per pod, because YAML keeps only the last"


def test_without_tolerations_there_are_none(helm: Path) -> None:
    assert "tolerations" not in text(helm, CANARY)


def test_selectors_do_not_change_with_the_release(helm: Path) -> None:
    """A Deployment's selector is immutable: it must not depend on versions or settings, nor match job pods."""
    for values in ({}, EVERYTHING):
        objects = render(helm, values)
        workload = next(each for each in objects if each["kind"] in ("Deployment", "StatefulSet"))
        selector = workload["spec"]["selector"]["matchLabels"]
        assert selector == {
            "app.kubernetes.io/name": "embedship",
            "app.kubernetes.io/instance": "search",
            "app.kubernetes.io/component": "server",
        }
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        jobs = {
            o["metadata"]["name"]: o["spec"]["jobTemplate"]["spec"]["template"]
            for o in objects
            if o["kind"] == "CronJob"
        }
        for name, pod in {**jobs, "test": one(objects, "Pod", "-test")}.items():
            component = "backup" if name.endswith("-backup") else "job"
            assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == component


OWN_JOBS = {
    "podSelector": {
        "matchLabels": {
            "app.kubernetes.io/name": "embedship",
            "app.kubernetes.io/instance": "search",
            "app.kubernetes.io/component": "job",
        }
    }
}


def test_the_network_is_closed(helm: Path) -> None:
    policy = one(render(helm), "NetworkPolicy", "-server")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert [rule["from"] for rule in policy["ingress"]] == [[{"podSelector": {}}], [OWN_JOBS]]
    watched = {"metrics": {"serviceMonitor": {"enabled": True}}, "networkPolicy": {"offline": False}}
    policy = one(render(helm, watched), "NetworkPolicy", "-server")["spec"]
    assert len(policy["ingress"][0]["from"]) == 2, "otherwise Prometheus could not reach the server"
    assert [each["port"] for each in policy["egress"][0]["ports"]] == [53, 53]


def test_several_bundles_are_several_aliases(helm: Path, tmp_path: Path) -> None:
    parent = {
        "apiVersion": "v2",
        "name": "ours",
        "version": "1.0.0",
        "dependencies": [
            {"name": "embedship", "version": "0.1.0", "repository": f"file://{CHART}", "alias": alias}
            for alias in ("legal", "medical")
        ],
    }
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    (tmp_path / "values.yaml").write_text(
        "global: {team: search, imageRegistry: registry.example}\n"
        "legal: {image: {repository: e}, bundle: {pvc: {claimName: a}}}\n"
        "medical: {image: {repository: e}, bundle: {pvc: {claimName: b}}}\n"
    )
    home = {"HELM_CACHE_HOME": str(tmp_path / "c"), "HELM_CONFIG_HOME": str(tmp_path / "d"), "PATH": "/usr/bin:/bin"}
    subprocess.run([helm, "dependency", "build", tmp_path], check=True, capture_output=True, env=home)
    answer = subprocess.run([helm, "template", "x", tmp_path], check=True, capture_output=True, text=True, env=home)
    objects = [each for each in yaml.safe_load_all(answer.stdout) if each and each["kind"] == "Deployment"]
    claims = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        for each in objects
    }
    assert claims == {"x-legal": "a", "x-medical": "b"}


def test_names_stay_short_enough(helm: Path) -> None:
    for each in render(helm, EVERYTHING, release="r" * 53):
        assert len(each["metadata"]["name"]) <= 52, each["metadata"]["name"]


def test_rendering_twice_gives_the_same(helm: Path) -> None:
    assert text(helm) == text(helm)


@pytest.mark.parametrize("own", [False, True])
def test_metrics_are_scraped_and_probed_where_the_server_has_them(helm: Path, own: bool) -> None:
    objects = render(helm, {"metrics": {"ownPort": own, "serviceMonitor": {"enabled": True}}})
    container, name = server(objects), "metrics" if own else "http"
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": 8080, **({"metrics": 9090} if own else {})}
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env.get("EMBEDSHIP_METRICS_PORT") == ("9090" if own else None)
    probes = [container[f"{each}Probe"]["httpGet"]["port"] for each in ("startup", "liveness", "readiness")]
    assert probes == [name] * 3
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (name, "/metrics")
    assert name in {port["name"] for port in one(objects, "Service", "search-embedship")["spec"]["ports"]}


def test_with_a_port_of_its_own_only_monitoring_reads_metrics_and_it_reads_nothing_else(helm: Path) -> None:
    values = {"metrics": {"ownPort": True, "serviceMonitor": {"enabled": True}}}
    rules = one(render(helm, values), "NetworkPolicy", "-server")["spec"]["ingress"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    by = [(rule["ports"][0]["port"], rule["from"]) for rule in rules]
    assert by == [("http", [{"podSelector": {}}]), ("http", [OWN_JOBS]), ("metrics", [monitoring])]
