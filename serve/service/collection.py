"""Collection: async access to the index. Searches run in threads, so they do not block the event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

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

# Running a search in a thread costs 0.1 to 0.4 ms, so searches faster than this run on the event loop.
INLINE_SECONDS = 0.0005


class Collection:
    """An index, searched without blocking the event loop. `backend` gives synchronous access to it.

    If the index is on a server that cannot be reached, coroutines raise IndexUnavailable, and methods of `backend`
    raise BackendUnavailable.
    """

    def __init__(self, backend: SearchBackend, prompt: str, probe: Vectors) -> None:
        """`prompt` is prepended to each query. A search for `probe`, a (1, dim) vector, measures the search time."""
        self.backend = backend
        self.prompt = prompt
        self._threads = ThreadPoolExecutor(backend.threads, thread_name_prefix="search")
        seconds = min(backend.find(probe, RECALL_K, DEFAULT_SEARCH_PARAMS).seconds for _ in range(3))
        self._quick = seconds < INLINE_SECONDS and backend.inline

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
        """Open an index. If `before` (a collection of this process) has the same writable index open, both share it.

        Raises UsageError, UnsafeError, MismatchError, BackendUnavailable.
        """
        backend = _open_backend(index, bundle, writable, before)
        name = backend.manifest.query_prompt
        return cls(backend, "" if name is None else prompt(name), probe)

    async def resolve_ids(self, ids: Sequence[str]) -> dict[str, int]:
        """Return {document id: its first row} for those ids that are in the index."""
        with _unavailable_as_http_error():
            return await interruption.on_thread(self._threads, partial(self.backend.resolve_ids, ids))

    async def fetch(self, id: str) -> Document | None:
        """Return the current document with this id, as a whole, or None."""
        with _unavailable_as_http_error():
            return await interruption.on_thread(self._threads, partial(self.backend.fetch, id))

    async def search(
        self,
        vectors: Vectors | None,
        k: int,
        params: SearchParams = DEFAULT_SEARCH_PARAMS,
        permit: QueuePermit | None = None,
    ) -> SearchResults:
        """Return the k best hits per row of (n, dim) `vectors`; a keyword search has no vectors.

        Cancelling interrupts the search; `permit` is released when the search has ended. Raises FilterError, UsageError
        for an effort parameter that the index does not have, and IndexUnavailable.
        """
        with _unavailable_as_http_error():
            if self._quick and vectors is not None and len(vectors) == 1 and k <= RECALL_K and params.plain:
                return self.backend.find(vectors, k, DEFAULT_SEARCH_PARAMS)
            return await interruption.on_thread(self._threads, partial(self.backend.find, vectors, k, params), permit)

    @property
    def baseline(self) -> RecallBaseline | None:
        """Recall@10 measured when the index was built. The monitor compares current recall with it.

        None if it was not measured, or is below LEAST_BASELINE.

        Recall measured with documents as queries does not predict the recall of real queries. Until real queries have
        been measured, only a decrease of more than a tenth counts.
        """
        recall = self.backend.manifest.recall
        if recall is None or recall.k != RECALL_K or recall.ratio < LEAST_BASELINE:
            return None
        if recall.source == SAMPLED or recall.low is None:
            return RecallBaseline(recall.ratio, FALL * recall.ratio, provisional=True)
        return RecallBaseline(recall.ratio, max(recall.low, LEAST_BASELINE))

    def close(self) -> None:
        self._threads.shutdown()
        self.backend.close()


@contextmanager
def _unavailable_as_http_error() -> Iterator[None]:
    try:
        yield
    except BackendUnavailable as error:
        raise IndexUnavailable.from_error(error) from error


def _open_backend(index: Path | Address, bundle: Bundle, writable: bool, before: Collection | None) -> SearchBackend:
    if isinstance(index, Path):
        return FolderBackend.open(index, bundle, writable, before.backend if before else None)
    from embedship.serve.milvus.backend import MilvusBackend  # the extra [milvus]

    return MilvusBackend.open(index, bundle, writable)
