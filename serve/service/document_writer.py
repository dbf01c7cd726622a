"""Documents put and deleted over HTTP: embedded behind the searches, on the disk before they are acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from embedship.errors import UsageError
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.documents.changes import Change, ChangeCounts, ChunkedDocuments, DeleteDocument
from embedship.serve.documents.store import Document
from embedship.serve.errors import DiskFull, IndexUnavailable, Invalid, ReadOnly, WriteFailed
from embedship.serve.indexing.embedding import text_of
from embedship.serve.live.compaction import CompactionResult, CompactionScheduler
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import BackendUnavailable, WritableBackend, WriteRefused
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Metrics

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class WriteResult:
    done: ChangeCounts
    unchanged: int
    embedded: Sequence[Document]  # chunks, where the index is of such
    encoded: EncodedTexts | None  # of those


class DocumentWriter:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(
        self, pipeline: QueryPipeline, index: WritableBackend | None, metrics: Metrics, settings: Settings
    ) -> None:
        """`index` is the one that takes changes, None where none does."""
        self._pipeline = pipeline
        self._most = settings.max_texts
        self._metrics = metrics
        self._index = index
        # One thread: transactions come one after the other, and a slow disk holds up no search.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writes")
        self._split = pipeline.chunker_for(index.manifest) if index else None
        # Who keeps changes elsewhere compacts them there.
        live = index if isinstance(index, MutableIndex) else None
        self._compaction = CompactionScheduler(live, settings.compact_share, self._compacted) if live else None

    async def apply_changes(self, documents: Sequence[Document], deleted: Sequence[str]) -> WriteResult:
        """Put and delete; when this returns, it is on the disk and every search sees it."""
        index = self._writable()
        pieces = await self._beside(lambda: self._pieces(index, documents)) if documents else ChunkedDocuments([], [])
        embedded, encoded = pieces.rows, None
        changes: list[Change] = [DeleteDocument(id) for id in deleted]
        if embedded:
            encoded = await self._encoded([text_of(each, index.manifest.with_title) for each in embedded], index)
            changes += pieces.puts(encoded.vectors)
        done = await self._written(index, changes) if changes else ChangeCounts()
        return WriteResult(done, len(documents) - len(pieces.documents), embedded, encoded)

    def close(self) -> None:
        """What is being written is written, what is being compacted is compacted."""
        self._thread.shutdown()
        if self._compaction:
            self._compaction.close()

    def _writable(self) -> WritableBackend:
        self._pipeline.require_index()
        if self._index is None:
            raise ReadOnly("This server holds its index for reading only: start it with --writable.")
        return self._index

    def _pieces(self, index: WritableBackend, documents: Sequence[Document]) -> ChunkedDocuments:
        try:
            return ChunkedDocuments.of(index.changed_documents(documents), self._split)
        except UsageError as error:
            raise Invalid(f"{error}.", "documents") from None

    async def _encoded(self, texts: Sequence[str], index: WritableBackend) -> EncodedTexts:
        """No more at once than one request may bring: the chunks of one document may be more than the queue holds."""
        prompt = index.manifest.document_prompt
        parts = [
            await self._pipeline.embed_documents(texts[start : start + self._most], prompt)
            for start in range(0, len(texts), self._most)
        ]
        return EncodedTexts(
            np.concatenate([part.vectors for part in parts]),
            [length for part in parts for length in part.lengths],
            [cut for part in parts for cut in part.cut],
        )

    async def _written(self, index: WritableBackend, changes: Sequence[Change]) -> ChangeCounts:
        began = time.perf_counter()
        try:
            done = await self._beside(lambda: index.write(changes))
        except WriteRefused as error:
            kind = DiskFull if error.full else WriteFailed
            raise kind(f"{str(error)[0].upper()}{str(error)[1:]}.", headers={"Retry-After": "30"}) from error
        except UsageError as error:
            raise Invalid(f"{error}.", "documents") from None
        self._metrics.write_seconds.observe(time.perf_counter() - began)
        for change, documents in msgspec.structs.asdict(done).items():
            self._metrics.changes[change].inc(documents)
        if self._compaction:
            self._compaction.compact_if_due()
        return done

    async def _beside(self, work: Callable[[], Got]) -> Got:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except BackendUnavailable as error:
            raise IndexUnavailable.of(error) from error

    def _compacted(self, result: CompactionResult, seconds: float) -> None:
        """Called on the thread of the compaction; counters may be."""
        self._metrics.compactions[result].inc()
        self._metrics.compaction_seconds.inc(seconds)
        if result is CompactionResult.DONE:
            self._metrics.compacted.set_to_current_time()
