"""What watches and scales a release: rules as promtool reads them, no metric or label that a live server has not."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from embedship.monitor.assets import shipped
from embedship.serve.http.app import App
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

from .manifests import EVERYTHING, NAMESPACE, one, render


@pytest.fixture(scope="module")
def objects(helm: Path) -> list[dict[str, Any]]:
    return render(helm, EVERYTHING)


@pytest.fixture(scope="module")
def scraped(bundle: Path, rerank_bundle: Path) -> dict[str, set[str]]:
    """Every metric of a live server, with its labels."""

    async def scrape(house: ServerState) -> str:
        transport = httpx.ASGITransport(app=App(house))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/metrics")).text

    with ServerState.open(Settings(bundle=bundle, reranker=rerank_bundle, streams=1)) as house:
        text = asyncio.run(scrape(house))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: dict[str, set[str]] = {sample.name: set() for sample in samples}
    for sample in samples:
        found[sample.name].update(sample.labels)
    return found


def test_the_rules_are_the_shipped_ones(objects: list[dict[str, Any]], promtool: Path, tmp_path: Path) -> None:
    spec = one(objects, "PrometheusRule")["spec"]
    # Which fire and do not fire where they should: tests/monitor/assets.
    wanted = yaml.safe_load(shipped()["rules.yaml"])
    for rule in (rule for group in wanted["groups"] for rule in group["rules"]):
        rule.get("annotations", {}).pop("runbook_url", None)  # a path, until metrics.rules.runbooks says where they lie
    assert spec == wanted
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    command = [promtool, "check", "rules", "rules.yaml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_alerts_link_to_the_runbooks(helm: Path) -> None:
    rules = {"metrics": {"rules": {"enabled": True, "runbooks": "https://wiki.example/embedship/"}}}
    spec = one(render(helm, rules), "PrometheusRule")["spec"]
    links = [rule["annotations"]["runbook_url"] for g in spec["groups"] for rule in g["rules"] if "alert" in rule]
    assert len(links) > 10
    assert all(re.fullmatch(r"https://wiki\.example/embedship/Embedship\w+\.md", link) for link in links)


def test_the_dashboard_is_the_shipped_one(objects: list[dict[str, Any]]) -> None:
    data = one(objects, "ConfigMap", "-dashboard")["data"]["embedship.json"]
    own = {"uid": "embeddings-search-embedship", "title": "embedship embeddings/search-embedship"}
    wanted = json.loads(shipped()["dashboard.json"])
    assert own["title"].startswith(wanted["title"])
    assert json.loads(data) == wanted | own


def test_the_monitor_finds_the_service(objects: list[dict[str, Any]]) -> None:
    """One of the two Services, or everything would be scraped twice; and by a port that it has."""
    spec = one(objects, "ServiceMonitor")["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    services = [each for each in objects if each["kind"] == "Service"]
    (found,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
    assert len(services) == 2
    assert found["metadata"]["name"] == "search-embedship"
    assert {each["port"] for each in spec["endpoints"]} <= {port["name"] for port in found["spec"]["ports"]}
    assert spec["namespaceSelector"]["matchNames"] == [NAMESPACE]


def test_keda_asks_for_what_is_there(
    objects: list[dict[str, Any]], scraped: dict[str, set[str]], promtool: Path, tmp_path: Path
) -> None:
    """Its query, on a live server's metrics, with the labels of the ServiceMonitor's targets: two requests wait.

    And a pair, where there is a re-ranker.
    """
    query = one(objects, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    metric, pairs = re.findall(r"embedship_\w+", query.replace('"search-embedship"', ""))
    assert {metric, pairs} <= scraped.keys()
    labels = f'namespace="{NAMESPACE}", job="search-embedship"'
    values = [f'{metric}{{{labels}, pod="{pod}"}}' for pod in ("a", "b")]
    other = f'{metric}{{namespace="{NAMESPACE}", job="another", pod="c"}}'
    series = [{"series": each, "values": "0+15x40"} for each in (*values, other)]  # a second waited a second, each
    reranks = [*series, {"series": f'{pairs}{{{labels}, pod="a"}}', "values": "0+15x40"}]
    tests = [
        {
            "interval": "15s",
            "input_series": given,
            "promql_expr_test": [
                {"expr": query, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": waiting}]}
            ],
        }
        for given, waiting in ((series, 2), (reranks, 3))
    ]
    (tmp_path / "keda.yaml").write_text(yaml.safe_dump({"tests": tests}))
    command = [promtool, "test", "rules", "keda.yaml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_hpa_asks_for_what_is_there(helm: Path, scraped: dict[str, set[str]]) -> None:
    (metric,) = one(render(helm, {"autoscaling": {"enabled": True}}), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in scraped


def test_rules_and_dashboard_ask_for_what_is_there(objects: list[dict[str, Any]], scraped: dict[str, set[str]]) -> None:
    """Names; tests/serve/test_prometheus.py has a real Prometheus answer each query."""
    rules = json.dumps(one(objects, "PrometheusRule")["spec"])
    rules = re.sub(r'"(description|summary|runbook_url)": "(\\.|[^"])*"', "", rules)
    dashboard = one(objects, "ConfigMap", "-dashboard")["data"]["embedship.json"]
    asked = set(re.findall(r"\bembedship_[a-z_]+\b", rules)) | set(
        re.findall(r"\bembedship_[a-z_]+\b", " ".join(re.findall(r'"expr": "((?:\\.|[^"])*)"', dashboard)))
    )
    assert len(asked) > 40
    assert asked - set(scraped) == set()
