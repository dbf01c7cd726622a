"""What a request began on another thread ends soon after the request has, and costs its permits until then."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from embedship.serve import interruption
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.documents import fulltext, store
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import Document
from embedship.serve.errors import ClientDeadlineExceeded
from embedship.serve.http.deadline import RequestTimeout, enforce_timeout
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.interruption import StopSignal, WorkStopped
from embedship.serve.telemetry.request_context import Priority

SECONDS = 60


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 documents of 60 words, every one of which many documents have."""
    path = tmp_path_factory.mktemp("words") / "documents.sqlite"
    draw = random.Random(0)
    texts = (" ".join(f"w{int(70 * draw.random() ** 2)}" for _ in range(60)) for _ in range(4_000))
    store.write(path, ((line, Document(str(line), text)) for line, text in enumerate(texts)))
    return path


WORDY = " ".join(f"w{n}" for n in range(64))


def test_a_keyword_search_stops_soon_after_its_deadline_and_others_go_on(
    corpus: Path, threads: ThreadPoolExecutor
) -> None:
    """The 2,048 texts would take minutes: the one thread answers the next search long before."""
    with closing(KeywordIndex.open(corpus, 4_000)) as words:
        alone = _seconds(lambda: words.search([WORDY], 10))

        async def go() -> float:
            with pytest.raises(ClientDeadlineExceeded):
                async with enforce_timeout(RequestTimeout(0.05, chosen=True)):
                    await interruption.on_thread(threads, lambda: words.search([WORDY] * 2_048, 10))
            began = time.perf_counter()
            hits = await interruption.on_thread(threads, lambda: words.search(["w1"], 10))
            assert hits.rows[0, 0] >= 0
            return time.perf_counter() - began

        assert asyncio.run(go()) < 0.5 * 2_048 * alone
        assert asyncio.run(go()) < 10 * alone + 1, "a text at most is still searched for"


def test_one_statement_is_interrupted_in_its_middle(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """A filter over many facts is one statement: this one would never end."""
    store.write(tmp_path / "d.sqlite", [(1, Document("a", "text"))])
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with closing(store.connect(tmp_path / "d.sqlite")) as connection:

        async def go() -> None:
            with pytest.raises(ClientDeadlineExceeded):
                async with enforce_timeout(RequestTimeout(0.05, chosen=True)):
                    await interruption.on_thread(threads, lambda: connection.execute(endless).fetchall())
            assert await interruption.on_thread(threads, lambda: "next") == "next"

        asyncio.run(asyncio.wait_for(go(), SECONDS))


def test_an_exact_search_stops_between_two_blocks(tmp_path: Path) -> None:
    rows = np.eye(8, dtype=np.float32)[np.arange(20_000) % 8]
    truth = ExactVectors.write(tmp_path, [rows], rows.shape)
    signal = StopSignal()
    signal.requested = True
    with pytest.raises(WorkStopped):
        signal.run(lambda: truth.search(rows[:4], 3))
    interruption._CURRENT.set(signal)
    try:
        with pytest.raises(WorkStopped):
            truth.search(rows[:4], 3)
    finally:
        interruption._CURRENT.set(None)
    assert truth.search(rows[:4], 3).rows[0, 0] == 0, "and goes on for who did not ask it to stop"


def test_a_permit_is_held_until_the_work_has_stopped(threads: ThreadPoolExecutor) -> None:
    begun, end = Event(), Event()

    def work() -> None:
        begun.set()
        end.wait(SECONDS)

    async def go() -> None:
        admission = AdmissionController(100)

        async def asked() -> None:
            with admission.acquire(3, Priority.INTERACTIVE) as permit:
                await interruption.on_thread(threads, work, permit)

        task = asyncio.create_task(asked())
        await asyncio.to_thread(begun.wait, SECONDS)
        waiting = asyncio.create_task(asked())
        await asyncio.sleep(0)
        assert admission.inside == 6
        for each in (task, waiting):
            each.cancel()
        await asyncio.wait([task, waiting])
        await asyncio.sleep(0)
        assert admission.inside == 3, "what never began has left at once, what runs still counts"
        end.set()
        await asyncio.to_thread(threads.shutdown)
        await asyncio.sleep(0)
        assert admission.inside == 0

    asyncio.run(asyncio.wait_for(go(), SECONDS))


def test_errors_and_results_are_those_of_the_work(threads: ThreadPoolExecutor) -> None:
    def fail() -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("SELECT * FROM unknown")

    async def go() -> None:
        assert await interruption.on_thread(threads, lambda: 7) == 7
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await interruption.on_thread(threads, fail)

    asyncio.run(go())


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_the_words_of_one_request_are_capped(fresh: Any, index_folder: Path, mode: str) -> None:
    found = fresh(index=index_folder, max_texts=200)
    many = " ".join(f"w{n}" for n in range(64))
    answer = found.post("/search", {"query": [many] * 65, "k": 1, "mode": mode})
    assert answer.status_code == 413
    assert f"{fulltext.MOST_SEARCHED:,} words" in answer.json()["error"]
    assert found.post("/search", {"query": [many] * 2, "k": 1, "mode": mode}).status_code == 200
    assert found.metric("embedship_permits_in_use") == 0


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
