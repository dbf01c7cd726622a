"""The index as the server uses it: vectors in, documents out, without stopping the event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.monitor.recall.rolling import FALL, LEAST_BASELINE, RecallBaseline
from embedship.serve import interruption
from embedship.serve.batching.admission import QueuePermit
from embedship.serve.documents.store import Document
from embedship.serve.errors import IndexUnavailable
from embedship.serve.index.manifest import SAMPLED
from embedship.serve.live.backend import FolderBackend
from embedship.serve.search.address import Address
from embedship.serve.search.backend import (
    DEFAULT_SEARCH_PARAMS,
    RECALL_K,
    BackendUnavailable,
    SearchBackend,
    SearchParams,
    SearchResults,
)

# Handing a search to a thread and back costs 0.1 to 0.4 ms: one that is quicker is done on the event loop.
INLINE_SECONDS = 0.0005

Got = TypeVar("Got")


class Collection:
    """Coroutines raise IndexAway where the index lies on a server that cannot be reached; plain methods raise Lost."""

    def __init__(self, store: SearchBackend, prompt: str, probe: Vectors) -> None:
        """`prompt` is put before each query; `probe`, one vector, is searched for to learn how long it takes."""
        self.store = store
        self.prompt = prompt
        self._threads = ThreadPoolExecutor(store.threads, thread_name_prefix="search")
        self._quick = min(self.search_sync(probe, RECALL_K).seconds for _ in range(3)) < INLINE_SECONDS and store.inline

    @classmethod
    def open(
        cls,
        index: Path | Address,
        bundle: Bundle,
        prompt: Callable[[str | None], str],
        probe: Vectors,
        writable: bool = False,
        before: Collection | None = None,
    ) -> Self:
        """`before` is one that is open in this process: what takes changes is shared with it.

        Raises UsageError, UnsafeError, MismatchError, Lost.
        """
        store = _opened(index, bundle, writable, before)
        name = store.manifest.query_prompt
        return cls(store, "" if name is None else prompt(name), probe)

    async def resolve_ids_async(self, ids: Sequence[str]) -> dict[str, int]:
        """The first row of each of these document ids that the index holds."""
        return await self._run_in_thread(lambda: self.resolve_ids(ids))

    def resolve_ids(self, ids: Sequence[str]) -> dict[str, int]:
        return self.store.known(ids)

    async def fetch(self, id: str) -> Document | None:
        """The document that has this id now, uncut."""
        return await self._run_in_thread(lambda: self.store.fetch(id))

    async def search(
        self,
        vectors: Vectors | None,
        k: int,
        how: SearchParams = DEFAULT_SEARCH_PARAMS,
        permit: QueuePermit | None = None,
    ) -> SearchResults:
        """Raises FilterError, and UsageError for an effort the index does not have. Keywords need no vectors.

        When it is cancelled, the search is interrupted; the permit is given back when that has ended.
        """
        if self._quick and vectors is not None and len(vectors) == 1 and k <= RECALL_K and how.plain:
            return self.search_sync(vectors, k)
        return await self._run_in_thread(lambda: self.search_sync(vectors, k, how), permit)

    def search_sync(self, vectors: Vectors | None, k: int, how: SearchParams = DEFAULT_SEARCH_PARAMS) -> SearchResults:
        """Thread-safe, and all of it of one moment."""
        return self.store.find(vectors, k, how)

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        """What an exact search finds, for the monitor: it runs on the monitor's thread."""
        return self.store.exact(vectors, k)

    @property
    def baseline(self) -> RecallBaseline | None:
        """Recall@10 as it was measured when the index was built: what the monitor compares with.

        What documents as queries gave is no measure of the queries that will come: until some have, only a fall by a
        tenth is one.
        """
        recall = self.store.manifest.recall
        if recall is None or recall.k != RECALL_K or recall.ratio < LEAST_BASELINE:
            return None
        if recall.source == SAMPLED or recall.low is None:
            return RecallBaseline(recall.ratio, FALL * recall.ratio, provisional=True)
        return RecallBaseline(recall.ratio, max(recall.low, LEAST_BASELINE))

    def close(self) -> None:
        self._threads.shutdown()
        self.store.close()

    async def _run_in_thread(self, work: Callable[[], Got], permit: QueuePermit | None = None) -> Got:
        try:
            return await interruption.on_thread(self._threads, work, permit)
        except BackendUnavailable as error:
            raise IndexUnavailable.of(error) from error


def _opened(index: Path | Address, bundle: Bundle, writable: bool, before: Collection | None) -> SearchBackend:
    if isinstance(index, Path):
        return FolderBackend.open(index, bundle, writable, before.store if before else None)
    from embedship.serve.milvus.backend import MilvusBackend  # the extra [milvus]

    return MilvusBackend.open(index, bundle, writable)
