"""Cost of churn: recall@10 and search p99 while 1% of the documents are deleted and 1% are added per minute.

The documents are sentences of MedQuAD's answers if available (else Python's documentation); one fifth is added later.
Its questions are the queries. Phases alternate: 20 seconds with a static index, and one minute with an index that is
written to and compacted as in `embedship serve --writable`. Searches arrive at a constant rate and are timed from
their scheduled start. Vectors are computed in advance, because this measures the index and not the model.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import record
from hybrid import DATA, WORK

from embedship import stdlib_docs, variant_choice
from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.monitor.recall.rolling import overlap
from embedship.serve.documents.changes import Change, ChunkedDocuments, DeleteDocument
from embedship.serve.documents.store import Document
from embedship.serve.index.folder import IndexFolder
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.live.backend import FolderBackend
from embedship.serve.live.compaction import CompactionResult, CompactionScheduler
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS
from embedship.serve.service.collection import Collection
from embedship.serve.settings import Settings

K = 10
STATIC = 1 / 3  # fraction of a churn phase: 1,000 searches are enough for a p99
PACE = 50  # searches per second
COME = 0.2  # fraction of the texts that is not in the index at first
JUDGED = 200  # number of queries for recall


class World(NamedTuple):
    texts: list[str]
    vectors: Vectors  # vectors of the texts
    queries: Vectors
    size: int  # number of texts in the index at first


def main() -> None:
    arguments = _arguments()
    seconds = 3.0 if arguments.quick else 60.0
    minutes = 2 if arguments.quick else arguments.minutes
    bundle = Bundle.open(arguments.bundle)
    WORK.mkdir(exist_ok=True)
    with Encoder.open(bundle) as encoder:
        world = _world(encoder, arguments.data, 3_000 if arguments.quick else None)
        folder = _index(encoder, world)
    static = Collection(FolderBackend(IndexFolder.open(folder, bundle)), "", world.queries[:1])
    copy = WORK / "churned"
    for old in (copy, copy.with_name("churned.live")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(folder, copy)
    with MutableIndex.open(copy, bundle, writable=True) as live:
        phases = _phases(
            static, Collection(FolderBackend(live.share()), "", world.queries[:1]), live, world, minutes, seconds
        )
    record.keep("churn", record.circumstances() | _summary(phases, world, arguments, seconds))


def _phases(
    static: Collection, shelf: Collection, live: MutableIndex, world: World, minutes: int, seconds: float
) -> list[dict[str, Any]]:
    churn, phases = Churn(live, world), []
    _search(static, world, min(seconds, 2.0))  # warm-up
    for minute in range(minutes):
        quiet = _search(static, world, seconds * STATIC)
        with churn.running(seconds, minute):
            busy = _search(shelf, world, seconds)
        size = live.size
        phases.append({
            "static": _spread(quiet), "churned": _spread(busy), "recall": _recall(shelf, world),
            "static_recall": _recall(static, world), "fresh": size.fresh, "tombstones": size.tombstones,
            "documents": size.documents, "writes": _spread(churn.seconds),
            "compactions": churn.results.count(CompactionResult.DONE),
        })  # fmt: skip
        print(json.dumps(phases[-1]), flush=True)
    churn.compaction.close()
    assert CompactionResult.FAILED not in churn.results, "a compaction failed: its log says why"
    return phases


class Churn:
    """Deletes and adds documents: one transaction per second, spread evenly over each minute."""

    def __init__(self, live: MutableIndex, world: World) -> None:
        self.results: list[CompactionResult] = []
        self.seconds: list[float] = []
        self.compaction = CompactionScheduler(live, Settings(bundle=Path()).compact_share, self._told)
        self._live, self._world = live, world
        self._random = np.random.default_rng(0)
        self._there = list(range(world.size))
        self._next = world.size

    @contextmanager
    def running(self, seconds: float, minute: int) -> Iterator[None]:
        self.seconds.clear()  # keep only the times of the current phase
        stop = Event()
        thread = Thread(target=self._run, args=(seconds, stop))
        thread.start()
        yield
        stop.set()
        thread.join()

    def _run(self, seconds: float, stop: Event) -> None:
        each, began = max(1, self._world.size // 100 // 60), time.perf_counter()
        for turn in range(round(seconds)):
            changes = [*self._gone(each), *self._come(each)]
            before = time.perf_counter()
            self._live.write(changes)
            self.seconds.append(time.perf_counter() - before)
            self.compaction.compact_if_due()
            if stop.wait(max(0.0, began + turn + 1 - time.perf_counter())):
                return

    def _gone(self, count: int) -> list[Change]:
        places = sorted(self._random.choice(len(self._there), count, replace=False).tolist(), reverse=True)
        return [DeleteDocument(str(self._there.pop(place))) for place in places]

    def _come(self, count: int) -> list[Change]:
        world, first = self._world, self._next
        self._next += count
        assert self._next <= len(world.texts), "more minutes than texts were held back for"
        self._there += range(first, self._next)
        documents = [Document(str(n), world.texts[n]) for n in range(first, self._next)]
        return [*ChunkedDocuments.from_documents(documents, None).puts(world.vectors[first : self._next])]

    def _told(self, result: CompactionResult, _: float) -> None:
        self.results.append(result)


def _search(shelf: Collection, world: World, seconds: float) -> list[float]:
    """Return seconds per search from its scheduled start to its result."""
    taken, began, count = [], time.perf_counter(), round(seconds * PACE)
    for turn in range(count):
        due = began + turn / PACE
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        shelf.backend.find(world.queries[turn % len(world.queries)][None], K, DEFAULT_SEARCH_PARAMS)
        taken.append(time.perf_counter() - max(due, began))
    return taken


def _recall(shelf: Collection, world: World) -> float:
    queries = world.queries[:JUDGED]
    found, expected = overlap(
        shelf.backend.find(queries, K, DEFAULT_SEARCH_PARAMS).rows, shelf.backend.exact(queries, K)
    )
    return float(found.sum() / expected.sum())


def _summary(phases: Sequence[dict[str, Any]], world: World, arguments: Any, seconds: float) -> dict[str, Any]:
    ratios = [phase["churned"]["p99"] / phase["static"]["p99"] for phase in phases]
    losses = [phase["static_recall"] - phase["recall"] for phase in phases]
    return {
        "benchmark": "churn", "quick": arguments.quick, "documents": world.size, "minutes": len(phases),
        "phase_seconds": seconds, "searches_per_second": PACE, "p99_ratio": record.spread(ratios),
        "recall_loss": record.spread(losses), "goals": {"p99_ratio": 1.3, "recall_loss": 0.005},
        "compactions": phases[-1]["compactions"], "phases": phases,
    }  # fmt: skip


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99)), "count": len(seconds)}


def _world(encoder: Encoder, data: Path, most: int | None) -> World:
    if data.exists():
        texts = list(dict.fromkeys(each for row in _lines(data / "corpus.jsonl") for each in _sentences(row["text"])))
        questions = [row["text"] for row in _lines(data / "queries.jsonl")]
    else:
        entries = stdlib_docs.entries()
        texts, questions = list(dict.fromkeys(each.body for each in entries[::2])), [e.summary for e in entries[1::2]]
    np.random.default_rng(1).shuffle(texts)
    texts = texts[:most]
    vectors = _kept(encoder, "texts", texts)
    queries = encoder.encode(questions[:1000], prompt_name=encoder.bundle.manifest.pipeline.query_prompt)
    return World(texts, vectors, normalise(queries), int(len(texts) * (1 - COME)))


def _kept(encoder: Encoder, name: str, texts: list[str]) -> Vectors:
    path = WORK / f"churn-{name}-{len(texts)}-{encoder.bundle.fingerprint[:12]}.npy"
    if not path.exists():
        prompt = encoder.bundle.manifest.pipeline.document_prompt
        np.save(path, normalise(encoder.encode(texts, prompt_name=prompt)))
    found: Vectors = np.load(path)
    return found


def _index(encoder: Encoder, world: World) -> Path:
    """Build the index with the users' command, with its default kind."""
    out = WORK / f"churn-{world.size}-{encoder.bundle.fingerprint[:12]}"
    if not out.exists():
        lines = WORK / "churn.jsonl"
        rows = ({"id": str(n), "text": text} for n, text in enumerate(world.texts[: world.size]))
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
        build(encoder, variant_choice.variant(encoder.bundle).name, lines, out, IndexOptions(), lambda *_: None)
    return out


def _sentences(text: str) -> list[str]:
    return [each for each in re.split(r"(?<=[.!?])\s+", text) if len(each) >= 20]


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder with MedQuAD's corpus.jsonl and queries.jsonl.")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
