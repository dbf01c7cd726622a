"""The live monitor on a real model and a real index: each fault raises its own signal, and the diagnosis names it."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import current_thread
from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.engine.protocol import Engine
from embedship.errors import EngineError, UsageError
from embedship.golden_texts import GoldenTexts
from embedship.monitor.diagnosis import DiagnosisCause
from embedship.monitor.failures import FailureCounts
from embedship.monitor.state import SignalState
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import Index, RankedRows, SearchEffort
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.service.background import BackgroundTasks
from embedship.serve.service.canaries import CANARIES, CANARY_TOKENS, CanaryTexts
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry.request_context import Priority
from embedship.stdlib_docs import entries

from ..conftest import Asked

SECONDS = 60


class Damaged:
    """The real engine until it breaks on one device: then every vector is a little off, and nothing is said."""

    def __init__(self, engine: Engine, device: str) -> None:
        self._engine = engine
        self._device = device
        self.how = "whole"

    @property
    def streams(self) -> int:
        return self._engine.streams

    @property
    def precision(self) -> Precision:
        return self._engine.precision

    def encode(self, batch: Batch) -> Vectors:
        vectors = self._engine.encode(batch)
        if self.how == "whole" or current_thread().name != self._device:
            return vectors
        if self.how == "dead":
            raise EngineError("device lost")
        return normalise(vectors + np.float32(0.01) * np.roll(vectors, 1, axis=1) * np.float32(10))

    def close(self) -> None:
        self._engine.close()


class Degraded:
    """The real index, but three of its ten best are lost."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.size, self.kind = index.size, index.kind

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        found = self._index.search(queries, k, allowed, effort)
        rows = np.concatenate([found.rows[:, 3:], np.full((len(queries), 3), -1)], axis=1)
        return RankedRows(rows, np.roll(found.scores, -3, axis=1))

    def exact(self, queries: Vectors, k: int) -> RankedRows:
        return self._index.exact(queries, k)


@pytest.fixture(scope="module")
def labelled(passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The titles of thirty passages, each of which should find its own."""
    path = tmp_path_factory.mktemp("probes") / "labels.jsonl"
    rows = ({"text": row["title"], "relevant": [row["id"]]} for row in passages[::2])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def usual() -> list[str]:
    """Queries as the reference of the bundle knows them."""
    return [entry.summary for entry in entries(300)][:150]


@pytest.fixture(scope="module")
def watching(settings: Settings, index_folder: Path, labelled: Path) -> Settings:
    return replace(
        settings, index=index_folder, probes=labelled, shadow_rate=1.0, shadow_share=1.0, streams=2, keep_queries=3
    )


@contextmanager
def opened(settings: Settings, device: str = "cpu:1") -> Iterator[tuple[Asked, Damaged]]:
    encoder = Encoder.open(settings.bundle, settings.variant, streams=settings.streams)
    engine = Damaged(encoder.engine, device)
    with ServerState.open(
        settings, encoder=Encoder(encoder.bundle, encoder.variant, encoder.tokenizer, engine)
    ) as state:
        yield Asked(state), engine


def search(asked: Asked, queries: list[str]) -> None:
    """One query a request, as users do."""

    async def all_of_them() -> None:
        for query in queries:
            await asked.service.pipeline.search([query], 10)

    asyncio.run(asyncio.wait_for(all_of_them(), SECONDS))
    assert asked.service.monitor.observer.flush(SECONDS)


def rounds(asked: Asked) -> None:
    async def both() -> None:
        await asked.service.background.run_canaries()
        await asked.service.background.replay_probes()

    asyncio.run(asyncio.wait_for(both(), SECONDS))


def signals(asked: Asked) -> dict[str, str]:
    known = asked.ask("GET", "/monitor").json()["diagnosis"]["signals"]
    return {name: state for name, state in known.items() if state}


def cause(asked: Asked) -> str:
    found: str = asked.ask("GET", "/monitor").json()["diagnosis"]["cause"]
    assert asked.metric("embedship_diagnosis", cause=found) == 1
    return found


OK = dict.fromkeys(("canary", "drift", "shadow", "probe"), "ok")


def test_each_fault_raises_its_own_signal(watching: Settings, usual: list[str]) -> None:
    with opened(watching) as (asked, engine):
        assert cause(asked) == DiagnosisCause.UNKNOWN
        search(asked, usual)
        rounds(asked)
        assert signals(asked) == OK
        assert cause(asked) == DiagnosisCause.NONE

        engine.how = "damaged"
        rounds(asked)
        assert signals(asked)["canary"] == "warn"
        assert cause(asked) == DiagnosisCause.MODEL_CHANGED
        whole = asked.metric("embedship_canary_cosine", device="cpu:0", against="start")
        damaged = asked.metric("embedship_canary_cosine", device="cpu:1", against="start")
        assert (
            whole > 0.99999 > asked.metric("embedship_canary_cosine_floor", device="cpu:0", against="start") > damaged
        )

        engine.how = "whole"
        rounds(asked)
        assert cause(asked) == DiagnosisCause.NONE
        folder = asked.service.collection.backend.folder  # type: ignore[union-attr]
        folder.index = Degraded(folder.index)
        search(asked, usual[:30])
        assert signals(asked) == OK | {"shadow": "warn"}
        assert cause(asked) == DiagnosisCause.INDEX_DEGRADED


def test_new_queries_are_drift_and_nothing_else(watching: Settings, usual: list[str]) -> None:
    with opened(watching) as (asked, _):
        rounds(asked)
        foods = ("bread", "soup", "cheese", "olive oil", "chicken", "rice", "apple pie", "fish", "garlic", "butter")
        ways = ("bake", "fry", "buy", "freeze", "cook", "serve", "season", "store", "grill", "make")
        new = [f"how long do I {way} {food} for {n} guests" for way in ways for food in foods for n in (2, 8)]
        search(asked, new)
        assert signals(asked) == OK | {"drift": "warn"}
        assert cause(asked) == DiagnosisCause.USERS_CHANGED
        evidence = asked.ask("GET", "/monitor").json()["queries"]["evidence"]
        assert evidence["far"]["now"] > 0.3 > evidence["far"]["then"]
        assert len(evidence["dimensions"]) == 10
        assert {each["text"] for each in evidence["queries"]} <= set(new)


def test_labels_that_the_corpus_left_behind_are_stale(
    watching: Settings, usual: list[str], passages: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A restart over a new index: the baseline of the probes is remembered, that of the index is its own."""
    lines = tmp_path / "corpus.jsonl"
    moved = [row | {"id": f"new-{row['id']}"} if i % 3 == 0 else row for i, row in enumerate(passages)]
    lines.write_bytes(b"\n".join(msgspec.json.encode(row) for row in moved))
    with Encoder.open(watching.bundle) as encoder:
        build(encoder, encoder.variant.name, lines, tmp_path / "index", IndexOptions(), lambda *_: None)
    kept = replace(watching, state_dir=tmp_path / "state")
    with opened(kept) as (asked, _):
        search(asked, usual)
        rounds(asked)
        before = asked.metric("embedship_recall_baseline_ratio", source="probe")
        assert signals(asked) == OK
    with opened(replace(kept, index=tmp_path / "index")) as (asked, _):
        assert asked.metric("embedship_snapshot_restored") == 1
        assert asked.metric("embedship_drift_window_queries") == 150
        assert asked.metric("embedship_recall_baseline_ratio", source="probe") == before > 0.9
        search(asked, usual)
        rounds(asked)
        assert asked.metric("embedship_probe_missing_labels") == 10
        assert signals(asked) == OK | {"probe": "warn"}
        assert cause(asked) == DiagnosisCause.LABELS_STALE


def test_the_monitors_own_texts_are_not_the_users(watching: Settings) -> None:
    with opened(watching) as (asked, _):
        rounds(asked)
        assert asked.metric("embedship_canary_texts_total", device="cpu:1") > 5
        assert asked.metric("embedship_recall_queries_total", source="probe") == 30
        for name in ("texts_total", "tokens_total", "batch_texts_count", "monitor_queries_total",
                     "search_seconds_count", "tokenise_seconds_count", "serialise_seconds_count",
                     "truncated_texts_total"):  # fmt: skip
            assert asked.metric(f"embedship_{name}") == 0
        for lane in Priority:
            assert asked.metric("embedship_queue_seconds_count", lane=lane) == 0


def test_a_dead_device_is_counted_and_unknown_while_the_other_sings(watching: Settings) -> None:
    with opened(watching) as (asked, engine):
        engine.how = "dead"
        asyncio.run(asyncio.wait_for(asked.service.background.run_canaries(), SECONDS))
        assert asked.metric("embedship_canary_failures_total", device="cpu:1") == 1
        assert asked.metric("embedship_canary_cosine", device="cpu:0", against="start") == pytest.approx(1)
        assert asked.metric("embedship_canary_state", state=SignalState.UNKNOWN) == 1


def test_probes_wait_while_the_queue_is_full(watching: Settings) -> None:
    with opened(watching) as (asked, _):
        admission = asked.state.admissions.embed

        async def go() -> None:
            with admission.acquire(admission.limit(Priority.BULK), Priority.BULK):
                replay = asyncio.create_task(asked.service.background.replay_probes())
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not replay.done()
            await replay

        asyncio.run(asyncio.wait_for(go(), SECONDS))
        assert asked.metric("embedship_probe_replays_total") == 1
        assert asked.metric("embedship_probe_failures_total") == 0


def test_the_schedule_runs_beside_requests_until_it_is_cancelled(watching: Settings, tmp_path: Path) -> None:
    settings = replace(watching, canary_interval_seconds=0.1, probe_interval_seconds=0.1, state_dir=tmp_path)
    with opened(settings) as (asked, _):

        async def go() -> None:
            running = asyncio.create_task(asked.service.background.run())
            while not (
                asked.metric("embedship_probe_replays_total") >= 2
                and asked.metric("embedship_canary_texts_total", device="cpu:0") > CANARIES
                and asked.metric("embedship_snapshot_writes_total") == 1
            ):  # fmt: skip
                await asked.service.pipeline.search(["a query"], 10)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(asyncio.wait_for(go(), SECONDS))
        assert asked.service.monitor.faults.failures == FailureCounts()


def test_canaries_are_few_short_and_of_every_length(bundle: Path) -> None:
    with Encoder.open(bundle) as encoder:
        golden, texts = GoldenTexts.load(encoder.bundle), CanaryTexts.from_encoder(encoder)
    lengths = [tokens.lengths[0] for tokens in texts.tokens]
    assert 5 <= len(lengths) <= CANARIES
    assert lengths == sorted(lengths)
    assert max(lengths) <= CANARY_TOKENS
    for tokens, vector in zip(texts.tokens, texts.vectors, strict=True):
        np.testing.assert_array_equal(vector, golden.vectors[golden.ids.index(tokens.ids[0])])


BAD = [
    ('{"text": "a"}\n', "line 1: .*relevant"),
    ('{"text": "a", "relevant": ["b"]}\n{"text": "", "relevant": ["b"]}\n', "line 2: `text` is empty"),
    ("", "is empty"),
]


@pytest.mark.parametrize(("lines", "says"), BAD)
def test_bad_probes_keep_the_server_from_starting(watching: Settings, tmp_path: Path, lines: str, says: str) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(lines)
    with pytest.raises(UsageError, match=says):
        ServerState.open(replace(watching, probes=path))


def test_probes_beside_the_index_are_taken_and_need_one(
    watching: Settings, index_folder: Path, labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / "index").symlink_to(index_folder)
    (tmp_path / "probes.jsonl").write_bytes(labelled.read_bytes())
    with ServerState.open(replace(watching, index=tmp_path / "index", probes=None)) as state:
        assert state.service.monitor.probes is not None
        assert len(state.service.monitor.probes.probes) == 30
    with pytest.raises(UsageError, match="needs an index"):
        ServerState.open(replace(watching, index=None))


def test_a_state_folder_that_cannot_be_made_is_a_usage_error(watching: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--state-dir .* cannot be created"):
        ServerState.open(replace(watching, state_dir=tmp_path / "file"))


def test_the_memory_of_another_model_is_a_warning(
    watching: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from embedship.monitor import snapshot
    from embedship.monitor.snapshot import MonitorState

    snapshot.write(tmp_path, MonitorState(fingerprint="0" * 64, created=0.0), None)
    with opened(replace(watching, state_dir=tmp_path)) as (asked, _):
        assert "belongs to model 000000000000" in caplog.text
        assert asked.metric("embedship_snapshot_restored") == 0


def test_cancelled_tasks_are_freed_without_the_garbage_collector(api: Asked) -> None:
    """They refer to the model of a replaced service, and the collector may run only after many reloads."""

    async def go() -> weakref.ref[BackgroundTasks]:
        tasks = BackgroundTasks(api.service.monitor, [], api.service.pipeline)
        running = asyncio.create_task(tasks.run())
        for _ in range(3):
            await asyncio.sleep(0)  # until its tasks run
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        return weakref.ref(tasks)

    gc.disable()
    try:
        assert asyncio.run(go())() is None
    finally:
        gc.enable()
