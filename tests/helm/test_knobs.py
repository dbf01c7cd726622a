"""The usual settings of a chart are rendered. Also regression tests for defaults that were wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedship.monitor.assets import shipped
from embedship.monitor.assets.options import THRESHOLDS, AssetOptions, customised

from . import manifests
from .drawing import SCHEMA, resolved
from .manifests import ANYBODY, CANARY, CHART, EVERYTHING, faults, one, pods, render, server
from .restricted import violations

ENV = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
SIDECAR = {"name": "proxy", "image": "proxy:1"}


def find(node: Any, path: str) -> Any:
    """Return the part of a manifest at a path such as a.b.0.c."""
    for key in path.split("."):
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


POD = "spec.template.spec"
BOX = f"{POD}.containers.0"
OUT = {"auth": ANYBODY}
NODE_PORT = {"service": {"type": "NodePort"}, "networkPolicy": {"enabled": False}, **OUT}
MONITOR = {"enabled": True}
TLS = {"ca": {"configMap": {"name": "ca", "key": "ca.crt"}}, "serverName": "search", "insecureSkipVerify": False}
BEARER = {"type": "Bearer", "credentials": {"name": "scrape", "key": "token"}}

# Values, the object and path where they must arrive, and the expected content.
KNOBS: list[tuple[dict[str, Any], str, str, Any]] = [
    (
        {"image": {"registry": "r.example:5000"}},
        "Deployment",
        f"{BOX}.image",
        "r.example:5000/registry.example/embedship:0.1.0",
    ),
    (
        {"image": {"registry": "a"}, "global": {"imageRegistry": "b"}},
        "Deployment",
        f"{BOX}.image",
        "b/registry.example/embedship:0.1.0",
    ),
    (
        {"global": {"imagePullSecrets": ["a", {"name": "b"}]}, "image": {"pullSecrets": ["c"]}},
        "Deployment",
        f"{POD}.imagePullSecrets",
        [{"name": "c"}, {"name": "a"}, {"name": "b"}],
    ),
    ({"image": {"pullPolicy": "Always"}}, "Deployment", f"{BOX}.imagePullPolicy", "Always"),
    (
        {"workloadAnnotations": {"reloader.stakater.com/auto": "true"}},
        "Deployment",
        "metadata.annotations",
        {"reloader.stakater.com/auto": "true"},
    ),
    ({"extraEnvVars": [ENV]}, "Deployment", f"{BOX}.env.5", ENV),
    ({"extraEnvFrom": [{"secretRef": {"name": "s"}}]}, "Deployment", f"{BOX}.envFrom", [{"secretRef": {"name": "s"}}]),
    ({"extraContainers": [SIDECAR]}, "Deployment", f"{POD}.containers.1", SIDECAR),
    ({"extraInitContainers": [SIDECAR]}, "Deployment", f"{POD}.initContainers", [SIDECAR]),
    ({**manifests.FETCHED, "extraInitContainers": [SIDECAR]}, "Deployment", f"{POD}.initContainers.1", SIDECAR),
    (
        {"podSecurityContext": {"supplementalGroups": [7], "runAsUser": 5}},
        "Deployment",
        f"{POD}.securityContext.runAsUser",
        5,
    ),
    (
        {"podSecurityContext": {"supplementalGroups": [7]}},
        "Deployment",
        f"{POD}.securityContext.supplementalGroups",
        [7],
    ),
    (
        {"containerSecurityContext": {"runAsUser": 2_000_000_000}},
        "Deployment",
        f"{BOX}.securityContext.runAsUser",
        2_000_000_000,
    ),
    ({"strategy": {"type": "Recreate"}}, "Deployment", "spec.strategy", {"type": "Recreate"}),
    ({"revisionHistoryLimit": 2}, "Deployment", "spec.revisionHistoryLimit", 2),
    ({"minReadySeconds": 9}, "Deployment", "spec.minReadySeconds", 9),
    ({"probes": {"liveness": {"failureThreshold": 9}}}, "Deployment", f"{BOX}.livenessProbe.failureThreshold", 9),
    ({"probes": {"readiness": {"periodSeconds": 9}}}, "Deployment", f"{BOX}.readinessProbe.periodSeconds", 9),
    ({"probes": {"startup": {"periodSeconds": 10}}}, "Deployment", f"{BOX}.startupProbe.failureThreshold", 30),
    ({"drain": {"seconds": 600}}, "Deployment", f"{BOX}.lifecycle.preStop.sleep.seconds", 5),
    ({"drain": {"preStopSeconds": 12}}, "Deployment", f"{BOX}.lifecycle.preStop.sleep.seconds", 12),
    ({"runtimeClassName": "gvisor"}, "Deployment", f"{POD}.runtimeClassName", "gvisor"),
    ({"schedulerName": "ours"}, "Deployment", f"{POD}.schedulerName", "ours"),
    ({"dnsPolicy": "None"}, "Deployment", f"{POD}.dnsPolicy", "None"),
    ({"dnsConfig": {"nameservers": ["10.0.0.1"]}}, "Deployment", f"{POD}.dnsConfig", {"nameservers": ["10.0.0.1"]}),
    ({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]}, "Deployment", f"{POD}.hostAliases.0.ip", "10.0.0.1"),
    (
        {
            "topologySpread": {
                "constraints": [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}]
            }
        },
        "Deployment",
        f"{POD}.topologySpreadConstraints.0.topologyKey",
        "rack",
    ),
    (
        {"podLabels": {"app.kubernetes.io/name": "x", "team": "t"}},
        "Deployment",
        "spec.template.metadata.labels.team",
        "t",
    ),
    ({"service": {"labels": {"team": "t"}}}, "Service", "metadata.labels.team", "t"),
    ({"service": {"trafficDistribution": "PreferClose"}}, "Service", "spec.trafficDistribution", "PreferClose"),
    ({"service": {"ipFamilyPolicy": "PreferDualStack"}}, "Service", "spec.ipFamilyPolicy", "PreferDualStack"),
    ({**NODE_PORT, "service": {"type": "NodePort", "nodePort": 30001}}, "Service", "spec.ports.0.nodePort", 30001),
    (
        {**NODE_PORT, "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}},
        "Service",
        "spec.externalTrafficPolicy",
        "Local",
    ),
    (
        {**NODE_PORT, "service": {"type": "LoadBalancer", "loadBalancerClass": "x/y"}},
        "Service",
        "spec.loadBalancerClass",
        "x/y",
    ),
    (
        {**NODE_PORT, "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "Service",
        "spec.loadBalancerSourceRanges",
        ["10.0.0.0/8"],
    ),
    (
        {**OUT, "ingress": {"enabled": True, "host": "a", "extraHosts": [{"host": "b", "path": "/x"}]}},
        "Ingress",
        "spec.rules.1.host",
        "b",
    ),
    (
        {**OUT, "ingress": {"enabled": True, "pathType": "Exact"}},
        "Ingress",
        "spec.rules.0.http.paths.0.pathType",
        "Exact",
    ),
    (
        {
            **OUT,
            "ingress": {
                "enabled": True,
                "host": "a",
                "tlsSecret": "one",
                "tls": [{"secretName": "two", "hosts": ["b"]}],
            },
        },
        "Ingress",
        "spec.tls",
        [{"secretName": "one", "hosts": ["a"]}, {"secretName": "two", "hosts": ["b"]}],
    ),
    (
        {**OUT, "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "timeouts": {"request": "30s"}}},
        "HTTPRoute",
        "spec.rules.0.timeouts",
        {"request": "30s"},
    ),
    (
        {
            **OUT,
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "g"}],
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}],
            },
        },
        "HTTPRoute",
        "spec.rules.0.filters.0.type",
        "RequestHeaderModifier",
    ),
    (
        {"metrics": {"serviceMonitor": {**MONITOR, "scrapeTimeout": "5s"}}},
        "ServiceMonitor",
        "spec.endpoints.0.scrapeTimeout",
        "5s",
    ),
    (
        {"metrics": {"serviceMonitor": {**MONITOR, "namespace": "monitoring"}}},
        "ServiceMonitor",
        "metadata.namespace",
        "monitoring",
    ),
    (
        {"metrics": {"serviceMonitor": {**MONITOR, "relabelings": [{"action": "labeldrop", "regex": "pod"}]}}},
        "ServiceMonitor",
        "spec.endpoints.0.relabelings.0.regex",
        "pod",
    ),
    (
        {"metrics": {"serviceMonitor": {**MONITOR, "metricRelabelings": [{"action": "drop", "regex": "x"}]}}},
        "ServiceMonitor",
        "spec.endpoints.0.metricRelabelings.0.action",
        "drop",
    ),
    *(
        ({"metrics": {kind[0].lower() + kind[1:]: {**MONITOR, **given}}}, kind, f"{spec}{path}", wanted)
        for kind, spec in (("ServiceMonitor", "spec.endpoints.0."), ("PodMonitor", "spec.podMetricsEndpoints.0."))
        for given, path, wanted in (
            ({"scheme": "https"}, "scheme", "https"),
            ({"tlsConfig": TLS}, "tlsConfig", TLS),
            ({"authorization": BEARER}, "authorization", BEARER),
            ({"interval": "30s"}, "interval", "30s"),
        )
    ),
    ({"metrics": {"podMonitor": {**MONITOR, "sampleLimit": 5000}}}, "PodMonitor", "spec.sampleLimit", 5000),
    ({"metrics": {"podMonitor": {**MONITOR, "podTargetLabels": ["x"]}}}, "PodMonitor", "spec.podTargetLabels", ["x"]),
    ({"metrics": {"serviceMonitor": {**MONITOR, "sampleLimit": 5000}}}, "ServiceMonitor", "spec.sampleLimit", 5000),
    (
        {"metrics": {"podMonitor": {**MONITOR, "relabelings": [{"action": "labeldrop", "regex": "pod"}]}}},
        "PodMonitor",
        "spec.podMetricsEndpoints.0.relabelings",
        [{"targetLabel": "job", "replacement": "search-embedship"}, {"action": "labeldrop", "regex": "pod"}],
    ),
    (
        {"metrics": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "Search"}}}},
        "ConfigMap",
        "metadata.annotations.grafana_folder",
        "Search",
    ),
    (
        {"metrics": {"dashboard": {"enabled": True, "namespace": "monitoring"}}},
        "ConfigMap",
        "metadata.namespace",
        "monitoring",
    ),
    ({"pdb": {"minAvailable": "50%"}}, "PodDisruptionBudget", "spec.minAvailable", "50%"),
    ({}, "PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy", "AlwaysAllow"),
    (
        {"autoscaling": {"enabled": True, "hpa": {"cpuPercent": 70}}},
        "HorizontalPodAutoscaler",
        "spec.metrics.0.resource.target.averageUtilization",
        70,
    ),
    (
        {"autoscaling": {"enabled": True, "hpa": {"memoryPercent": 80}}},
        "HorizontalPodAutoscaler",
        "spec.metrics.0.resource.name",
        "memory",
    ),
    (
        {"autoscaling": {"enabled": True, "behavior": {"scaleUp": {"stabilizationWindowSeconds": 60}}}},
        "HorizontalPodAutoscaler",
        "spec.behavior",
        {"scaleDown": {"stabilizationWindowSeconds": 300}, "scaleUp": {"stabilizationWindowSeconds": 60}},
    ),
    (
        {"check": {"schedule": "0 * * * *"}, "jobs": {"timeZone": "Europe/Berlin"}},
        "CronJob",
        "spec.timeZone",
        "Europe/Berlin",
    ),
    ({"check": {"schedule": "0 * * * *"}, "jobs": {"suspend": True}}, "CronJob", "spec.suspend", True),
    (
        {"check": {"schedule": "0 * * * *"}, "jobs": {"failedJobsHistoryLimit": 0}},
        "CronJob",
        "spec.failedJobsHistoryLimit",
        0,
    ),
    (
        {"check": {"schedule": "0 * * * *"}, "jobs": {"successfulJobsHistoryLimit": 0}},
        "CronJob",
        "spec.successfulJobsHistoryLimit",
        0,
    ),
    ({"check": {"schedule": "0 * * * *"}}, "CronJob", "spec.startingDeadlineSeconds", 600),
    (
        {"check": {"schedule": "0 * * * *"}, "jobs": {"ttlSecondsAfterFinished": 0}},
        "CronJob",
        "spec.jobTemplate.spec.ttlSecondsAfterFinished",
        0,
    ),
]


@pytest.mark.parametrize(("values", "kind", "path", "wanted"), KNOBS, ids=[each[2] for each in KNOBS])
def test_a_knob_arrives_and_kubernetes_takes_it(
    helm: Path, values: dict[str, Any], kind: str, path: str, wanted: Any
) -> None:
    made = [each for each in render(helm, values) if each["kind"] == kind]
    assert find(made[0], path) == wanted
    assert [fault for each in made for fault in faults(each, "1.37")] == []


def test_keda_holds_what_runs_when_prometheus_does_not_answer(helm: Path) -> None:
    keda = {
        "prometheus": "http://p:9090",
        "authenticationRef": {"name": "prom", "kind": "ClusterTriggerAuthentication"},
    }
    spec = one(render(helm, {"autoscaling": {"enabled": True, "kind": "keda", "keda": keda}}), "ScaledObject")["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false", "otherwise missing data counts as no load"
    assert trigger["authenticationRef"] == keda["authenticationRef"]
    assert spec["fallback"] == {"failureThreshold": 4, "replicas": 2, "behavior": "currentReplicasIfHigher"}


def test_no_user_is_the_clusters_choice_and_never_root(helm: Path) -> None:
    """As required by OpenShift's restricted-v2, which assigns a user id per namespace."""
    values = {**EVERYTHING, "user": None}
    made = list(pods(render(helm, values)))
    assert len(made) == 8
    for name, pod in made:
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"]), name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert all("runAsUser" not in each["securityContext"] for each in pod["containers"]), name


def test_common_labels_reach_everything_and_no_selector(helm: Path) -> None:
    given = {"commonLabels": {"team": "search", "app.kubernetes.io/name": "mine"}, "commonAnnotations": {"owner": "me"}}
    for values in (EVERYTHING, CANARY):
        for each in render(helm, {**values, **given}):
            if each["metadata"]["name"] == "ours":
                continue
            assert each["metadata"]["labels"]["team"] == "search", each["metadata"]["name"]
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "embedship", "selectors need it"
            assert each["metadata"]["annotations"]["owner"] == "me", each["metadata"]["name"]
            assert "team" not in json.dumps(each.get("spec", {}).get("selector", {}))


def test_labels_and_annotations_of_jobs_reach_every_pod_that_is_no_server(helm: Path) -> None:
    jobs = {"podLabels": {"team": "search"}, "podAnnotations": {"sidecar.istio.io/inject": "false"}}
    seen = 0
    for values in (EVERYTHING, CANARY):
        for each in render(helm, {**values, "jobs": jobs}):
            for meta in pod_metadata(each):
                ours = meta["labels"]["app.kubernetes.io/component"] not in ("server", "canary")
                assert (meta["labels"].get("team") == "search") == ours, each["metadata"]["name"]
                assert (meta.get("annotations", {}).get("sidecar.istio.io/inject") == "false") == ours
                seen += ours
    assert seen == 10


def pod_metadata(each: dict[str, Any]) -> list[dict[str, Any]]:
    match each["kind"]:
        case "Pod":
            return [each["metadata"]]
        case "Deployment" | "StatefulSet" | "Job":
            return [each["spec"]["template"]["metadata"]]
        case "CronJob":
            return [each["spec"]["jobTemplate"]["spec"]["template"]["metadata"]]
        case "AnalysisTemplate":
            return [each["spec"]["metrics"][0]["provider"]["job"]["spec"]["template"]["metadata"]]
        case "RayJob":
            return [template["metadata"] for template in manifests.ray_templates(each)]
    return []


def test_a_version_with_a_build_is_a_valid_label(helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "embedship"
    shutil.copytree(CHART, copy)
    chart = (copy / "Chart.yaml").read_text().replace("version: 0.1.0", "version: 0.1.0+build.7")
    (copy / "Chart.yaml").write_text(chart.replace('appVersion: "0.1.0"', 'appVersion: "0.1.0+7"'))
    monkeypatch.setattr(manifests, "CHART", copy)
    for each in render(helm, {**CANARY, "image": {"tag": "1"}}):
        for key, value in each["metadata"]["labels"].items():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value), key


def test_a_writable_index_is_written_by_one(helm: Path) -> None:
    values = {
        "index": {"enabled": True, "claimName": "i", "path": "v1"}, "server": {"writable": True}, "replicas": 1,
        "auth": {"write": {"create": True}},
    }  # fmt: skip
    objects = render(helm, values)
    spec = one(objects, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "Recreate"}, "a surge pod could not open the index"
    mounts = {each["name"]: each for each in server(objects)["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["template"]["spec"]["volumes"]}
    assert mounts["index"]["readOnly"] is False
    assert volumes["index"]["persistentVolumeClaim"]["readOnly"] is False
    assert {"name": "EMBEDSHIP_WRITE_KEY_FILE", "value": "/write/write-keys"} in server(objects)["env"]
    assert "write-keys" in one(objects, "Secret", "-write")["data"]
    only_read = render(helm, {**values, "server": {}, "replicas": 3, "auth": {}})
    assert {each["name"]: each for each in server(only_read)["volumeMounts"]}["index"]["readOnly"] is True


def test_objects_of_ones_own_may_hold_templates(helm: Path) -> None:
    given = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include "embedship.fullname" . }}-b}',
    ]
    names = [each["metadata"]["name"] for each in render(helm, {"extraObjects": given}) if each["kind"] == "ConfigMap"]
    assert sorted(names) == ["search-a", "search-embedship-b"]


def test_a_canary_may_run_elsewhere(helm: Path) -> None:
    own = {"nodeSelector": {"pool": "new"}, "resources": {"limits": {"memory": "4Gi"}}}
    pod = one(render(helm, {**CANARY, "canary": {**CANARY["canary"], **own}}), "Deployment", "-canary")["spec"][
        "template"
    ]
    assert pod["spec"]["nodeSelector"] == {"pool": "new"}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert "nodeSelector" not in one(render(helm, CANARY), "Deployment", "embedship")["spec"]["template"]["spec"]


def test_alerts_get_severities_labels_and_an_end(helm: Path) -> None:
    shipped = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    alerts = {rule["alert"]: rule for group in shipped["groups"] for rule in group["rules"] if "alert" in rule}
    off = sorted(alerts)[0]
    names = {each["labels"]["severity"]: each["labels"]["severity"] + "x" for each in alerts.values()}
    rules = {"enabled": True, "severities": names, "alertLabels": {"team": "search"}, "disabled": [off]}
    spec = one(render(helm, {"metrics": {"rules": rules}}), "PrometheusRule")["spec"]
    made = {rule["alert"]: rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(made) == set(alerts) - {off}
    for name, rule in made.items():
        assert rule["labels"] == alerts[name]["labels"] | {
            "severity": alerts[name]["labels"]["severity"] + "x",
            "team": "search",
        }
        assert "runbook_url" not in rule["annotations"], "the link would be broken"


def test_a_pod_monitor_is_for_those_whose_alerts_name_the_service(helm: Path) -> None:
    """A PodMonitor's own job is NAMESPACE/NAME. Alerts, dashboard and KEDA expect the name of the Service."""
    made = render(helm, {**CANARY, "metrics": {"podMonitor": MONITOR}})
    found = {
        each["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["replacement"]: each["spec"]["selector"]["matchLabels"]
        for each in made
        if each["kind"] == "PodMonitor"
    }
    services = {each["metadata"]["name"]: each["spec"]["selector"] for each in made if each["kind"] == "Service"}
    assert found == services
    with pytest.raises(manifests.Refused, match="count everything twice"):
        render(helm, {"metrics": {"podMonitor": MONITOR, "serviceMonitor": MONITOR}})


def test_thresholds_are_those_of_monitor_init(helm: Path) -> None:
    given = {name: float(each.default) * 2 for name, each in THRESHOLDS.items()}
    made = one(render(helm, {"metrics": {"rules": {"enabled": True, "thresholds": given}}}), "PrometheusRule")
    wanted = yaml.safe_load(customised(shipped(), AssetOptions(thresholds=given))["rules.yaml"])

    def expressions(groups: list[dict[str, Any]]) -> list[str]:
        return [rule["expr"].strip() for group in groups for rule in group["rules"]]

    assert expressions(made["spec"]["groups"]) == expressions(wanted["groups"])
    default = one(render(helm, {"metrics": {"rules": {"enabled": True}}}), "PrometheusRule")
    assert expressions(default["spec"]["groups"]) != expressions(wanted["groups"])


def test_two_releases_have_two_dashboards(helm: Path) -> None:
    values = {"metrics": {"dashboard": {"enabled": True}}}
    made = [
        json.loads(one(render(helm, values, release=name), "ConfigMap")["data"]["embedship.json"])
        for name in ("a", "b" * 50)
    ]
    assert made[0]["uid"] == "embeddings-a-embedship"
    assert len({each["uid"] for each in made}) == len({each["title"] for each in made}) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", each["uid"]) for each in made)


def test_every_value_says_what_it_is() -> None:
    """The schema has a description per value, for editors. tools/chart.py copies those of values.yaml."""

    def missing(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for key, each in schema.get("properties", {}).items():
            described = each
            while "$ref" in described and not described.get("description"):
                _, where, name = described["$ref"].split("/")
                described = SCHEMA[where][name]
            found += [] if described.get("description") else [f"{path}{key}"]
            found += missing(each, f"{path}{key}.")
        for each in [*schema.get("patternProperties", {}).values(), *filter(None, [schema.get("items")])]:
            found += missing(each, f"{path}*.")
        return found

    definitions = [fault for name, each in SCHEMA["definitions"].items() for fault in missing(each, f"{name}: ")]
    assert missing(SCHEMA, "") + definitions == []
    assert resolved(SCHEMA["properties"]["replicas"])["description"]


def test_a_knob_that_weakens_a_pod_is_not_there(helm: Path) -> None:
    for values in ({"containerSecurityContext": {"privileged": True}}, {"podSecurityContext": {"runAsUser": 0}}):
        with pytest.raises(manifests.Refused):
            render(helm, values)
    assert violations(render(helm, {"podSecurityContext": {"runAsUser": 7}})) == []
