"""The index as the server uses it: vectors in, documents out, without stopping the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.serve.documents import Document
from embedship.serve.index.folder import IndexFolder

# What recall is measured at. A client that asks for three hits is searched ten, or nothing could be said of its recall.
K = 10

# Handing a search to a thread and back costs 0.1 to 0.4 ms: one that is quicker is done on the event loop.
INLINE_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Hit:
    document: Document
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """For each query its k hits, best first; and the index rows (n, at least K) that were found, -1 for none."""

    hits: list[list[Hit]]
    rows: npt.NDArray[np.int64]
    seconds: float


class Shelf:
    def __init__(self, folder: IndexFolder, prompt: str, probe: Vectors) -> None:
        """`prompt` is put before each query; `probe`, one vector, is searched for to learn how long it takes."""
        self.folder = folder
        self.prompt = prompt
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="search")
        self._quick = min(self.find(probe, K).seconds for _ in range(3)) < INLINE_SECONDS

    @classmethod
    def open(cls, path: Path, bundle: Bundle, prompt: Callable[[str | None], str], probe: Vectors) -> Self:
        """Raises UsageError, UnsafeError, MismatchError."""
        folder = IndexFolder.open(path, bundle)
        name = folder.manifest.query_prompt
        return cls(folder, "" if name is None else prompt(name), probe)

    async def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """The index row of each of these document ids that the index holds."""
        threads = asyncio.get_running_loop()
        return await threads.run_in_executor(self._threads, self.folder.documents.rows, ids)

    async def search(self, vectors: Vectors, k: int) -> Found:
        if self._quick and len(vectors) == 1 and k <= K:
            return self.find(vectors, k)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.find, vectors, k)

    def find(self, vectors: Vectors, k: int) -> Found:
        """Thread-safe. The index holds unit rows, whether or not the model ends in a normalisation."""
        began = time.perf_counter()
        found = self.folder.index.search(normalise(vectors), max(k, K))
        shown = found.rows[:, :k]
        documents = iter(self.folder.documents.fetch(shown[shown >= 0].tolist()))
        hits = [
            [Hit(next(documents), score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(shown.tolist(), found.scores[:, :k].tolist(), strict=True)
        ]
        return Found(hits, found.rows, time.perf_counter() - began)

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        """What an exact search finds, for the monitor: it runs on the monitor's thread."""
        return self.folder.index.exact(normalise(vectors), k).rows

    @property
    def baseline(self) -> float | None:
        """Recall@10 as it was measured when the index was built: what the monitor compares with."""
        recall = self.folder.manifest.recall
        return recall.ratio if recall and recall.k == K and recall.ratio > 0 else None

    def close(self) -> None:
        self._threads.shutdown()
        self.folder.close()
