"""The shipped rules and dashboard against what a live server exports: by promtool, and by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from embedship.monitor.assets import shipped
from embedship.monitor.assets.alert import INSTANCE, AlertCase, series
from embedship.monitor.assets.cases import written
from embedship.monitor.assets.recording import RATIOS
from embedship.monitor.assets.rules import ALERTS

from .conftest import Live, launched
from .service.test_background import Degraded, labelled, opened, rounds, search, usual, watching  # noqa: F401 - fixtures

SECONDS = 60

# What a busy machine alone can raise: three scrapes that were late, or one search in twenty over 250 ms.
BUSY = {"EmbedshipDown", "EmbedshipLatencyHigh"}


@pytest.fixture(scope="module")
def foods() -> list[str]:
    """Questions of quite another kind than Python's documentation."""
    things = ("bread", "soup", "cheese", "olive oil", "chicken", "rice", "apple pie", "fish", "garlic", "butter")
    ways = ("bake", "fry", "buy", "freeze", "cook", "serve", "season", "store", "grill", "make")
    return [f"how long do I {way} {thing} for {n} guests" for way in ways for thing in things for n in (2, 8)]


# Faults, captured from a real service and replayed through promtool.


def captured(asked: Any) -> dict[str, float]:
    """Every series of a scrape as Prometheus would store it."""
    scrape = asked.ask("GET", "/metrics").text
    samples = (sample for family in text_string_to_metric_families(scrape) for sample in family.samples)
    # promtool's clock begins at 0, and Unix times of today would lie in its future.
    return {series(s.name, **s.labels): s.value for s in samples if not s.name.endswith("_timestamp_seconds")}


def replayed(name: str, before: dict[str, float], after: dict[str, float], **labels: str) -> AlertCase:
    """Ten minutes as it was, then the fault for an hour."""
    assert set(before) == set(after), "every series is there from the first scrape"
    values = {key: f"{before[key]:.17g}x10 {value:.17g}x70" for key, value in after.items()}
    clock = series("embedship_monitor_last_evaluation_timestamp_seconds")
    values |= {clock: "0+60x80", series("process_start_time_seconds"): "0x80", series("up"): "1x80"}
    return AlertCase(name=name, series=values, at="70m", labels={**INSTANCE, **labels} if labels else None)


@pytest.fixture(scope="module")
def faults(watching: Any, usual: list[str], foods: list[str]) -> dict[str, AlertCase]:  # noqa: F811
    """By the alert that should fire, and nothing else; the first is a service that is well."""
    with opened(watching) as (asked, engine):
        search(asked, usual)
        rounds(asked)
        well = captured(asked)
        engine.how = "damaged"
        rounds(asked)
        damaged = captured(asked)
        engine.how = "whole"
        folder = asked.service.collection.backend.folder  # type: ignore[union-attr]
        folder.index = Degraded(folder.index)
        search(asked, usual[:60])
        rounds(asked)
        degraded = captured(asked)
    with opened(watching) as (asked, _):
        rounds(asked)
        search(asked, foods)
        drifted = captured(asked)
    return {
        "EmbedshipRetrainSuggested": replayed("all is well", well, well),
        "EmbedshipCanaryFailed": replayed("a damaged model", well, damaged, state="warn"),
        "EmbedshipRecallFell": replayed("a degraded index", well, degraded, state="warn", source="shadow"),
        "EmbedshipDriftSuspected": replayed("new questions", well, drifted, state="warn"),
    }


def test_each_fault_raises_its_own_alert_and_no_other(
    promtool: Path, faults: dict[str, AlertCase], tmp_path: Path
) -> None:
    alerts = {alert.name: alert for alert in ALERTS}
    (tmp_path / "rules.yaml").write_text(shipped()["rules.yaml"])
    (tmp_path / "faults.yaml").write_text(written([(alerts[name], case) for name, case in faults.items()]))
    command = [promtool, "test", "rules", "faults.yaml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# A real Prometheus.


@dataclass
class Watched:
    """A server, and the Prometheus that scrapes it every second."""

    server: Live
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=SECONDS).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expr)["result"]
        return found

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"}

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.server.url + path, json=body, timeout=SECONDS)


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Ask again until it holds; each question takes its time, and the deadline bounds them all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def watched(
    bundle: Path,
    rerank_bundle: Path,
    index_folder: Path,
    labelled: Path,  # noqa: F811
    prometheus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    options = {
        "index": index_folder, "reranker": rerank_bundle, "probes": labelled, "shadow-rate": 1, "shadow-share": 1,
        "drift-interval-seconds": 1, "canary-interval-seconds": 1, "probe-interval-seconds": 2,
        "state-dir": folder / "state",
    }  # fmt: skip
    with launched(str(bundle), *(f"--{name}={value}" for name, value in options.items())) as server:
        _configure(folder, server)
        with _started(prometheus, folder) as url:
            yield Watched(server, url)


def _configure(folder: Path, server: Live, waits_for: str = "") -> None:
    """What takes minutes takes two seconds; but not what the machine alone may raise, unless a test waits for it."""
    rules = yaml.safe_load(shipped()["rules.yaml"])
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if rule.get("for") in ("1m", "2m", "5m") and rule["alert"] not in BUSY - {waits_for}:
            rule["for"] = "2s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    target = server.url.removeprefix("http://")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yaml]\n"
        f'scrape_configs: [{{job_name: embedship, static_configs: [{{targets: ["{target}"]}}]}}]\n'
    )


@contextmanager
def _started(program: Path, folder: Path) -> Iterator[str]:
    """Prometheus on a port of its own choice; ended whatever happens."""
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": "127.0.0.1:0"}
    command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield f"http://{_address(process.stderr)}"
        finally:
            process.terminate()
            process.wait(SECONDS)


def _address(log: IO[str]) -> str:
    """Where it listens; what it says later is read and forgotten, for a full pipe would stop it."""
    address = ""
    for line in log:
        if found := re.search(r'msg="Listening on" address=(\S+)', line):
            address = found[1]
        if "Server is ready to receive web requests" in line:
            break
    assert address, "Prometheus ended before it listened"
    Thread(target=log.read, daemon=True).start()
    return address


@pytest.fixture(scope="module")
def busy(watched: Watched, usual: list[str], passages: list[dict[str, Any]]) -> Watched:  # noqa: F811
    """Users of every kind, with Prometheus looking on before and after."""
    assert until(lambda: bool(watched.query("embedship_requests_total")))
    for query in usual:
        assert watched.post("/search", {"query": query}).status_code == 200
    assert watched.post("/embed", {"inputs": ["a text", "another"]}).status_code == 200
    assert watched.post("/v1/embeddings", {"input": "a text"}).status_code == 200
    assert watched.post("/search", {"query": "open a file", "rerank": {"top": 20}}).status_code == 200
    pairs = {"query": "open a file", "texts": ["open()", "os.open() " * 200]}
    assert watched.post("/rerank", pairs).status_code == 200
    answer = watched.post("/search", {"query": "open a file"})
    judged = {"request_id": answer.headers["x-request-id"], "relevant": [passages[0]["id"]]}
    assert watched.post("/feedback", judged).status_code == 200
    assert watched.post("/search", {"wrong": 1}).status_code == 422
    return watched


def panels() -> list[tuple[str, str]]:
    """Every query of every panel, with Grafana's variables as Grafana would fill them in."""
    board = json.loads(shipped()["dashboard.json"])
    filled = {"$__rate_interval": "20s", "$job": "embedship", "$instance": ".*"}
    queries = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    for variable, value in filled.items():
        queries = [(title, expr.replace(variable, value)) for title, expr in queries]
    return queries


def test_every_panel_shows_something(busy: Watched) -> None:
    waiting = dict.fromkeys(panels())

    def answered() -> bool:
        for title, expr in list(waiting):
            if busy.query(expr):
                del waiting[title, expr]
        return not waiting

    assert until(answered), "\n".join(f"{title}: {expr}" for title, expr in waiting)


def test_every_rule_works_and_every_alert_is_quiet_while_all_is_well(busy: Watched) -> None:
    recorded = {
        rule["name"] for group in busy.ask("rules")["groups"] for rule in group["rules"] if rule["type"] == "recording"
    }
    assert recorded == {ratio.name for ratio in RATIOS}
    assert until(lambda: all(busy.query(name) for name in recorded)), [
        each for each in recorded if not busy.query(each)
    ]
    calm = (
        'embedship_drift_state{state="ok"}',
        'embedship_canary_state{state="ok"}',
        'embedship_recall_state{state="ok"}',
    )
    assert until(lambda: all(busy.query(f"{state} == 1") for state in calm))
    known = {rule["name"]: rule for group in busy.ask("rules")["groups"] for rule in group["rules"]}
    assert {rule["health"] for rule in known.values()} == {"ok"}
    assert set(known) - recorded == {alert.name for alert in ALERTS}
    assert busy.firing() == set()
    assert until(lambda: not busy.query('ALERTS{alertname="EmbedshipDown"}')), (
        "nor on its way to fire, at its real pace"
    )


def test_every_series_that_a_rule_reads_is_scraped(busy: Watched) -> None:
    """An alert that is quiet because its series is misspelt would be quiet for ever.

    Series of kube-state-metrics (kube_...) are not here: the server does not export them.
    """
    names = set(busy.ask("label/__name__/values"))
    for alert in ALERTS:
        for name in re.findall(r"\b(?:embedship[:\w]+|up|process_\w+)\b", alert.expr):
            assert name in names, f"{alert.name} reads {name}"
        for selector in re.findall(r"\b(?!kube_)\w+{[^}]*}", alert.expr):
            assert busy.query(selector), f"{alert.name} reads {selector}"


def test_the_scrape_keeps_the_conventions(busy: Watched, promtool: Path) -> None:
    scrape = httpx.get(f"{busy.server.url}/metrics", timeout=SECONDS).text
    answer = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")


def test_new_questions_raise_drift_and_nothing_else(busy: Watched, foods: list[str]) -> None:
    for query in foods:
        busy.post("/search", {"query": query})
    assert until(lambda: busy.firing() != set())
    assert busy.firing() == {"EmbedshipDriftSuspected"}


def test_a_killed_worker_raises_its_own_alert(bundle: Path, prometheus: Path, tmp_path: Path) -> None:
    options = ("--devices", "cpu:0,cpu:1", "--drift-interval-seconds", "1", "--canary-interval-seconds", "1")
    with launched(str(bundle), *options) as server:
        _configure(tmp_path, server)
        with _started(prometheus, tmp_path) as url:
            watched = Watched(server, url)
            assert until(lambda: len(watched.query("embedship_device_up == 1")) == 2)
            assert until(lambda: bool(watched.query("embedship_ready == 1")))
            assert watched.firing() == set()
            next(each for each in psutil.Process(server.process.pid).children() if _is_device(each, "cpu:1")).kill()
            assert until(lambda: watched.firing() != set())
            assert until(lambda: bool(watched.query('embedship_device_up{device="cpu:1"} == 1')))
            (alert,) = [each for each in watched.ask("alerts")["alerts"] if each["state"] == "firing"]
            assert (alert["labels"]["alertname"], alert["labels"]["device"]) == ("EmbedshipDeviceRestarted", "cpu:1")
            assert watched.post("/embed", {"inputs": ["a text", "another"]}).status_code == 200


def _is_device(process: psutil.Process, name: str) -> bool:
    return name in process.cmdline()


def test_a_killed_server_raises_its_own_alert(
    bundle: Path, index_folder: Path, prometheus: Path, tmp_path: Path
) -> None:
    options = ("--index", str(index_folder), "--drift-interval-seconds", "1", "--canary-interval-seconds", "1")
    with launched(str(bundle), *options) as server:
        _configure(tmp_path, server, waits_for="EmbedshipDown")
        with _started(prometheus, tmp_path) as url:
            watched = Watched(server, url)
            assert until(lambda: bool(watched.query("embedship_ready == 1")))
            assert until(lambda: watched.firing() == set()), "late scrapes may have raised it"
            server.process.kill()
            assert until(lambda: watched.firing() != set())
            assert watched.firing() == {"EmbedshipDown"}
