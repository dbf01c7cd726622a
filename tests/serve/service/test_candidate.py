"""Another bundle and index beside those that serve: compared, bounded, harmless, taken up without a lost request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from embedship import bundle as bundles
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.errors import MismatchError, UsageError
from embedship.monitor.recall.probes import LabelledProbe
from embedship.serve.index.manifest import read
from embedship.serve.indexing.migrate import migrate, options_from_index
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS, SearchParams, SearchResults
from embedship.serve.service.candidate import CAPACITY, ShadowCandidate
from embedship.serve.service.collection import Collection
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

from ..conftest import Asked, launched, opened

SECONDS = 30
ADMIN = "an-admin-key-of-the-tests"
HEADERS = {"authorization": f"Bearer {ADMIN}"}


class Silent:
    def start(self, texts: int, done: int) -> None: ...
    def encoded(self, texts: int, tokens: int) -> None: ...


@pytest.fixture
def other(altered: Path) -> Path:
    """A bundle of another fingerprint, which gives documents and queries another prompt."""
    manifest = Bundle.open(altered).manifest
    prompts = {"query": "a question: ", "document": "HELP ME WITH ALL OF THIS: "}
    pipeline = msgspec.structs.replace(manifest.pipeline, prompts=prompts)
    found = bundles.fingerprint(manifest.source, pipeline, manifest.tokenizer_sha256)
    Bundle.write(altered, msgspec.structs.replace(manifest, pipeline=pipeline, fingerprint=found))
    return altered


@pytest.fixture
def migrated(other: Path, index_folder: Path, tmp_path: Path) -> Path:
    with Encoder.open(other) as encoder:
        migrate(
            encoder,
            index_folder,
            tmp_path / "migrated",
            options_from_index(read(index_folder), None, None, None),
            Silent(),
        )
    return tmp_path / "migrated"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "admin-keys").write_text(ADMIN)
    return tmp_path / "admin-keys"


def compared(asked: Asked) -> dict[str, Any]:
    assert asked.service.candidate is not None
    assert asked.service.candidate.flush(SECONDS)
    found: dict[str, Any] = asked.ask("GET", "/monitor").json()["candidate"]
    return found


def test_the_same_once_more_overlaps_wholly(
    fresh: Callable[..., Asked], index_folder: Path, passages: list[dict[str, Any]], tmp_path: Path
) -> None:
    probes = tmp_path / "probes.jsonl"
    rows = [{"text": passage["title"], "relevant": [passage["id"], "missing"]} for passage in passages[:6]]
    probes.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    asked = fresh(
        index=index_folder, candidate_index=index_folder, candidate_rate=1.0, candidate_share=1.0, probes=probes
    )
    asked.post("/search", {"query": [passage["text"] for passage in passages[:7]]})
    asked.post("/search", {"query": passages[8]["text"], "mode": "hybrid", "filter": {"kind": "first"}})
    asked.post("/search", {"query": passages[8]["text"], "mode": "hybrid"})
    for unlike in ({"k": 9}, {"mode": "keyword"}, {"per_document": False}):
        asked.post("/search", {"query": passages[9]["text"], **unlike})
    asyncio.run(asked.service.background.replay_probes())
    report = compared(asked)
    assert (report["queries"], report["found"], report["expected"], report["overlap"]) == (8, 80, 80, 1.0)
    assert report["serving"]["median"] > 0, "of the one search that came alone and found ten"
    assert report["candidate"]["median"] > 0
    assert report["probes"] == 6
    assert asked.metric("embedship_candidate_watched") == 1
    assert asked.metric("embedship_candidate_overlap_ratio") == 1
    for name in ("recall", "ndcg"):
        serving, candidate = (
            asked.metric(f"embedship_candidate_probe_{name}_ratio", side=side) for side in ("serving", "candidate")
        )
        assert 0 < serving < 1
        assert serving == pytest.approx(candidate)


def test_another_bundle_is_compared_by_documents(
    fresh: Callable[..., Asked], index_folder: Path, other: Path, migrated: Path, passages: list[dict[str, Any]]
) -> None:
    asked = fresh(
        index=index_folder,
        candidate_bundle=other,
        candidate_index=migrated,
        candidate_rate=1.0,
        candidate_share=1.0,
    )
    for passage in passages[:12]:
        assert asked.post("/search", {"query": passage["title"]}).status_code == 200
    report = compared(asked)
    assert report["fingerprint"] == Bundle.open(other).fingerprint != asked.service.bundle.fingerprint
    assert report["index"] == read(migrated).digest
    assert (report["queries"], report["expected"], report["failures"]) == (12, 120, 0)
    assert 0.2 < report["overlap"] < 1, "much the same text model, but not the same vectors"
    assert asked.metric("embedship_monitor_queries_total") == 12, "the candidate's own searches are nobody's"
    assert asked.metric("embedship_texts_total") == 12


@pytest.fixture
def shelf(bundle: Path, index_folder: Path) -> Any:
    with Encoder.open(bundle, streams=1) as encoder:
        probe = encoder.encode(["a"])
        found = Collection.open(index_folder, encoder.bundle, encoder.tokenizer.prompt, probe)
        yield encoder, found


def ten(shelf: Collection, encoder: Encoder) -> SearchResults:
    return shelf.backend.find(encoder.encode(["open a file"]), 10, DEFAULT_SEARCH_PARAMS)


def test_a_busy_candidate_is_not_waited_for(shelf: tuple[Encoder, Collection]) -> None:
    encoder, folder = shelf
    candidate = ShadowCandidate(encoder, folder, rate=1.0, share=1.0)
    found = ten(folder, encoder)
    for _ in range(CAPACITY + 36):  # its thread has not begun
        candidate.sample(["open a file"], found, DEFAULT_SEARCH_PARAMS, 0.1)
    assert candidate.comparison.report().busy_skipped == 36
    candidate.start([LabelledProbe("open a file", ("none",))])
    assert candidate.flush(SECONDS)
    report = candidate.comparison.report()
    assert (report.queries, report.overlap, report.probes, report.probe_recall) == (CAPACITY, 1.0, 1, 0.0)
    candidate.close()
    candidate.sample(["open a file"], found, DEFAULT_SEARCH_PARAMS, 0.1)
    assert candidate.comparison.report().queries == CAPACITY


def test_what_it_may_cost_is_bounded(shelf: tuple[Encoder, Collection]) -> None:
    encoder, folder = shelf
    candidate = ShadowCandidate(encoder, folder, rate=1.0, share=0.0)
    candidate.sample(["open a file"], ten(folder, encoder), DEFAULT_SEARCH_PARAMS, 0.1)
    candidate.start()
    assert candidate.flush(SECONDS)
    report = candidate.comparison.report()
    assert (report.queries, report.allowance_skipped, report.seconds) == (0, 1, 0.0)
    candidate.close()


def test_a_candidate_that_fails_is_counted(shelf: tuple[Encoder, Collection], caplog: pytest.LogCaptureFixture) -> None:
    encoder, folder = shelf
    candidate = ShadowCandidate(encoder, folder, rate=1.0, share=1.0)
    candidate.sample(["open a file"], ten(folder, encoder), SearchParams(filter={"no_such_field": 1}), 0.1)
    candidate.sample(["open a file"], ten(folder, encoder), DEFAULT_SEARCH_PARAMS, 0.1)
    candidate.start()
    assert candidate.flush(SECONDS)
    report = candidate.comparison.report()
    assert (report.failures, report.queries) == (1, 1)
    assert "the candidate failed on a search" in caplog.text
    candidate.close()


def test_a_share_of_the_searches_is_asked(shelf: tuple[Encoder, Collection]) -> None:
    encoder, folder = shelf
    candidate = ShadowCandidate(encoder, folder, rate=0.1, share=1.0)
    found = ten(folder, encoder)
    for _ in range(300):
        candidate.sample(["open a file"], found, DEFAULT_SEARCH_PARAMS, 0.1)
    candidate.start()
    assert candidate.flush(SECONDS)
    assert 10 <= candidate.comparison.report().queries <= 60
    candidate.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"candidate_bundle": Path("b"), "index": Path("i")},
            "--candidate-bundle needs an index of its own: also give --candidate-index",
        ),
        ({"candidate_index": Path("i")}, "--candidate-index needs a serving index to compare with: also give --index"),
        ({"candidate_index": Path("i"), "index": Path("i"), "candidate_rate": 2}, "--candidate-rate .* is 2"),
    ],
)
def test_settings_that_make_no_sense(settings: Settings, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(settings, **changes)


def test_a_candidate_whose_parts_do_not_fit_is_refused(settings: Settings, index_folder: Path, migrated: Path) -> None:
    with pytest.raises(MismatchError, match="their vectors cannot be compared"):
        ServerState.open(replace(settings, index=index_folder, candidate_index=migrated))


def test_without_a_candidate_all_is_zero_and_nothing_can_be_taken_up(
    settings: Settings, index_folder: Path, keys: Path
) -> None:
    with opened(replace(settings, index=index_folder, admin_key_file=keys)) as asked:
        assert asked.metric("embedship_candidate_watched") == 0
        assert asked.metric("embedship_candidate_queries_total") == 0
        assert asked.metric("embedship_candidate_skipped_queries_total", reason="busy") == 0
        assert asked.metric("embedship_candidate_latency_seconds", side="candidate", statistic="p99") == 0
        answer = asked.ask("POST", "/admin/reload", json={"candidate": True}, headers=HEADERS)
        assert answer.status_code == 409
        assert "start it with --candidate-index" in answer.json()["error"]
        both = {"candidate": True, "bundle": "/models/v2"}
        assert asked.ask("POST", "/admin/reload", json=both, headers=HEADERS).status_code == 422


def test_it_is_taken_up_under_load_without_a_lost_request(
    bundle: Path, index_folder: Path, other: Path, migrated: Path, keys: Path, passages: list[dict[str, Any]]
) -> None:
    """Every answer is whole, and of one side: the right document is first under both."""
    seen: Counter[str] = Counter()
    wrong: list[str] = []

    async def ask(url: str, over: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as client:
            while not over.is_set():
                passage = passages[sum(seen.values()) % len(passages)]
                answer = await client.post("/search", json={"query": passage["text"]})
                seen[answer.headers["x-embedship-fingerprint"]] += 1
                if answer.status_code != 200 or answer.json()["results"][0]["hits"][0]["id"] != passage["id"]:
                    wrong.append(answer.text[:200])

    async def until(fingerprint: str) -> None:
        enough = seen[fingerprint] + 40
        while seen[fingerprint] < enough:  # noqa: ASYNC110 - a Counter tells nobody
            await asyncio.sleep(0.001)

    async def go(url: str) -> tuple[str, str]:
        over = asyncio.Event()
        clients = [asyncio.create_task(ask(url, over)) for _ in range(3)]
        await until(Bundle.open(bundle).fingerprint)
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS, headers=HEADERS) as admin:
            before = (await admin.get("/metrics")).text
            taken = await admin.post("/admin/reload", json={"candidate": True})
            assert taken.json()["fingerprint"] == Bundle.open(other).fingerprint, taken.text
            await until(Bundle.open(other).fingerprint)
            after = (await admin.get("/metrics")).text
        over.set()
        await asyncio.gather(*clients)
        return before, after

    options = ("--index", str(index_folder), "--candidate-bundle", str(other), "--candidate-index", str(migrated))
    with launched(str(bundle), *options, "--admin-key-file", str(keys), "--candidate-rate", "1") as live:
        before, after = asyncio.run(asyncio.wait_for(go(live.url), 2 * SECONDS))
        assert any("candidate: fingerprint" in line for line in live.log)
    assert wrong == []
    assert len(seen) == 2
    assert "embedship_candidate_watched 1.0" in before
    assert "embedship_candidate_watched 0.0" in after
