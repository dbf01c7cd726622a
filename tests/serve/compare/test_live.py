"""`embedship compare` of two real servers, each a process: what the analysis of a canary runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from embedship.commands.main import run
from embedship.errors import EngineError, UsageError
from embedship.serve.client import ServerClient
from embedship.serve.compare.gates import CompareThresholds
from embedship.serve.compare.live import compare
from embedship.serve.compare.questions import QuestionSet

from ..conftest import launched

KEY = "k" * 32
T = TypeVar("T")


@pytest.fixture(scope="module")
def queries(passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("live") / "queries.jsonl"
    lines = [{"text": row["title"] or row["text"], "relevant": [row["id"]]} for row in passages]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="module")
def urls(
    bundle: Path, coarse: Path, index_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """In use, a good new one, and one that an export went wrong with; all ask for a key and search one index."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    common = ["--index", str(index_folder), "--api-key-file", str(keys), "--streams", "1", "--shadow-rate", "0"]
    named = {"old": (bundle, "onnx"), "new": (bundle, "openvino"), "coarse": (coarse, "onnx")}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(launched(str(folder), "--variant", variant, *common))
            for name, (folder, variant) in named.items()
        }
        yield {**{name: server.url for name, server in servers.items()}, "keys": str(keys)}


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run(["compare", *map(str, arguments), "--min-queries", "30", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_good_canary_passes(
    urls: dict[str, str], queries: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found = compared(capsys, urls["old"], urls["new"], queries, "--api-key-file", urls["keys"])
    assert code == 0, found["verdict"]
    measured = found["measured"]
    assert measured["failures"]["requests"] == 2 * found["queries"]
    assert measured["vectors"]["mean"] > 0.9999, "float32 by two runtimes"
    assert measured["agreement"]["recall"]["mean"] > 0.99
    assert measured["labels"]["queries"] == found["queries"]
    assert measured["latency"]["old_median"] > 0
    assert {"failures", "vectors", "ranking", "latency"} <= {gate["name"] for gate in found["gates"]}
    code, found = compared(capsys, urls["old"], urls["new"], queries)
    assert code == 2
    assert "wants an API key" in found["error"]
    monkeypatch.setenv("EMBEDSHIP_API_KEYS", KEY)
    code, found = compared(capsys, urls["old"], urls["new"], queries, "--max-latency", "0.001")
    assert code == 3
    assert [gate["name"] for gate in found["gates"] if gate["passed"] is False] == ["latency"]


def test_a_damaged_canary_is_refused(urls: dict[str, str], queries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is ready, and answers every request."""
    code, found = compared(capsys, urls["old"], urls["coarse"], queries, "--api-key-file", urls["keys"])
    assert code == 3
    failed = {gate["name"] for gate in found["gates"] if gate["passed"] is False}
    assert {"vectors", "ranking"} <= failed
    assert "failures" not in failed


class Failing(ServerClient):
    """A server of which every third search fails."""

    def __init__(self, url: str, keys: Path) -> None:
        super().__init__(url, keys, 30)
        self._searches = 0

    def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
        self._searches += path == "/search"
        if path == "/search" and self._searches % 3 == 0:
            raise EngineError("answered 500")
        return super().__call__(path, kind, body)


def test_requests_that_fail_count(urls: dict[str, str], queries: Path) -> None:
    questions, keys = QuestionSet.read(queries), Path(urls["keys"])
    found = compare(
        ServerClient(urls["old"], keys, 30), Failing(urls["new"], keys), questions, CompareThresholds(min_queries=2)
    ).report
    failures = found.measured.failures
    assert failures is not None
    assert (failures.old, failures.new) == (0, len(questions) // 3)
    assert [gate.name for gate in found.gates if gate.passed is False] == ["failures"]
    assert "answered 500" in found.verdict[1]
    assert found.measured.agreement is not None
    assert found.measured.agreement.queries == len(questions) - len(questions) // 3, "of those that both answered"
    both = compare(
        Failing(urls["old"], keys), Failing(urls["new"], keys), questions, CompareThresholds(min_queries=2)
    ).report
    assert both.passed


class Silent(ServerClient):
    """A server all of whose searches fail."""

    def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
        if path == "/search":
            raise EngineError("answered 429")
        return super().__call__(path, kind, body)


def test_servers_that_answer_nothing_show_nothing(urls: dict[str, str], queries: Path) -> None:
    questions, keys = QuestionSet.read(queries), Path(urls["keys"])
    old, new = Silent(urls["old"], keys, 30), Silent(urls["new"], keys, 30)
    found = compare(old, new, questions, CompareThresholds(min_queries=2, min_recall=0.9)).report
    assert {gate.name for gate in found.gates if gate.passed is False} == {"queries", "ranking"}


class Bare(ServerClient):
    """A server without an index."""

    def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
        assert path != "/search"
        found = super().__call__(path, kind, body)
        return msgspec.structs.replace(found, index=None) if path == "/info" else found  # type: ignore[type-var]


def test_a_canary_that_lost_its_index_is_refused(urls: dict[str, str], queries: Path) -> None:
    questions, keys = QuestionSet.read(queries), Path(urls["keys"])
    old, new = ServerClient(urls["old"], keys, 30), Bare(urls["new"], keys, 30)
    bare = QuestionSet(questions.texts, [set()] * len(questions), questions.ids, questions.lines)
    for each in (questions, bare):
        found = compare(old, new, each, CompareThresholds(min_queries=2)).report
        assert [gate.name for gate in found.gates if gate.passed is False] == ["ranking"]
        assert "OLD answers /search and NEW has no index" in found.verdict[1]
    found = compare(Bare(urls["old"], keys, 30), new, bare, CompareThresholds(min_queries=2)).report
    assert found.passed, "neither searches"
    assert found.verdict[-1] == "What it finds was not compared."


def test_labels_are_not_dropped(urls: dict[str, str], queries: Path) -> None:
    questions, keys = QuestionSet.read(queries), Path(urls["keys"])
    for new in (ServerClient(urls["new"], keys, 30), Bare(urls["new"], keys, 30)):
        with pytest.raises(UsageError, match="queries are labelled"):
            compare(Bare(urls["old"], keys, 30), new, questions, CompareThresholds(min_queries=2))


def test_another_model_is_said_at_once(urls: dict[str, str], queries: Path) -> None:
    class Another(ServerClient):
        def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
            found = super().__call__(path, kind, body)
            if path == "/info":
                found = msgspec.structs.replace(found, fingerprint="f" * 64)  # type: ignore[type-var]
            return found

    questions, keys = QuestionSet.read(queries), Path(urls["keys"])
    old, new = ServerClient(urls["old"], keys, 30), Another(urls["new"], keys, 30)
    assert "--other-model" in compare(old, new, questions, CompareThresholds(min_queries=2)).report.verdict[1]
    found = compare(old, new, questions, CompareThresholds(min_queries=2, other_model=True)).report
    assert found.passed, found.verdict
    assert found.measured.vectors is None
