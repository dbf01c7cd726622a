"""Document writer: embeds and stores documents sent over HTTP. Changes are durable before they are confirmed."""

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
from embedship.serve import interruption
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.documents.changes import Change, ChangeCounts, ChunkedDocuments, DeleteDocument
from embedship.serve.documents.store import Document
from embedship.serve.errors import DiskFull, IndexUnavailable, Invalid, ReadOnly, TooLarge, WriteFailed
from embedship.serve.indexing.embedding import text_of
from embedship.serve.live.compaction import CompactionResult, CompactionScheduler
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import BackendUnavailable, WritableBackend, WriteRefused
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Metrics

Result = TypeVar("Result")

# A document of 200,000 characters has thousands of short chunks, and its title and metadata may have 16 MiB.
_MAX_REPEATED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Counts of a change, and the documents that were embedded for it."""

    done: ChangeCounts
    unchanged: int
    embedded: Sequence[Document]  # chunks, in an index of chunks
    encoded: EncodedTexts | None  # tokens of `embedded`


class DocumentWriter:
    """Applies changes to the index, one transaction at a time. Used from the event loop; raises only RequestErrors."""

    def __init__(
        self, pipeline: QueryPipeline, index: WritableBackend | None, metrics: Metrics, settings: Settings
    ) -> None:
        """`index` is the writable index, or None if the server is read-only."""
        self._pipeline = pipeline
        self._max_texts = settings.max_texts
        self._metrics = metrics
        self._index = index
        # One thread, so that transactions run one at a time, and a slow disk does not delay searches.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writes")
        self._split = pipeline.chunker_for(index.manifest) if index else None
        # Other backends, such as Milvus, compact their data themselves.
        mutable = index if isinstance(index, MutableIndex) else None
        self._compaction = (
            CompactionScheduler(mutable, settings.compact_share, self._count_compaction) if mutable else None
        )

    async def apply_changes(self, documents: Sequence[Document], deleted: Sequence[str]) -> WriteResult:
        """Add, replace and delete documents. On return, the changes are durable and visible to every search."""
        index = self._require_writable()
        chunked = await self._split_changed(index, documents) if documents else ChunkedDocuments([], [])
        embedded, encoded = chunked.rows, None
        changes: list[Change] = [DeleteDocument(id) for id in deleted]
        if embedded:
            encoded = await self._encode([text_of(each, index.manifest.with_title) for each in embedded], index)
            changes += chunked.puts(encoded.vectors)
        done = await self._write(index, changes) if changes else ChangeCounts()
        return WriteResult(done, len(documents) - len(chunked.documents), embedded, encoded)

    def close(self) -> None:
        """Finish running transactions and compactions, then stop."""
        self._thread.shutdown()
        if self._compaction:
            self._compaction.close()

    def _require_writable(self) -> WritableBackend:
        self._pipeline.require_index()
        if self._index is None:
            raise ReadOnly("The index of this server is read-only: start the server with --writable.")
        return self._index

    async def _split_changed(self, index: WritableBackend, documents: Sequence[Document]) -> ChunkedDocuments:
        """Return the documents that differ from those in the index, with their chunks. Interruptible."""

        def split() -> ChunkedDocuments:
            return ChunkedDocuments.from_documents(index.changed_documents(documents), self._split)

        try:
            chunked = await interruption.on_thread(self._thread, split)
        except UsageError as error:
            raise Invalid(f"{error}.", "documents") from None
        except BackendUnavailable as error:
            raise IndexUnavailable.from_error(error) from error
        _check_repeated(chunked)
        return chunked

    async def _encode(self, texts: Sequence[str], index: WritableBackend) -> EncodedTexts:
        """Encode in parts of max_texts: one document may have more chunks than the queue accepts at once."""
        prompt = index.manifest.document_prompt
        parts = [
            await self._pipeline.embed_documents(texts[start : start + self._max_texts], prompt)
            for start in range(0, len(texts), self._max_texts)
        ]
        return EncodedTexts(
            np.concatenate([part.vectors for part in parts]),
            [length for part in parts for length in part.lengths],
            [cut for part in parts for cut in part.cut],
        )

    async def _write(self, index: WritableBackend, changes: Sequence[Change]) -> ChangeCounts:
        began = time.perf_counter()
        try:
            done = await self._run_in_thread(lambda: index.write(changes))
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

    async def _run_in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except BackendUnavailable as error:
            raise IndexUnavailable.from_error(error) from error

    def _count_compaction(self, result: CompactionResult, seconds: float) -> None:
        """Count a compaction. Called on its thread: prometheus counters are thread-safe."""
        self._metrics.compactions[result].inc()
        self._metrics.compaction_seconds.inc(seconds)
        if result is CompactionResult.DONE:
            self._metrics.compacted.set_to_current_time()


def _check_repeated(chunked: ChunkedDocuments) -> None:
    """Raise TooLarge if titles and metadata, which are stored with every chunk of a document, need too much space."""
    repeated = sum(
        (len(chunks) - 1) * len(msgspec.json.encode((document.title, document.metadata)))
        for document, chunks in zip(chunked.documents, chunked.chunks, strict=True)
        if len(chunks) > 1
    )
    if repeated > _MAX_REPEATED_BYTES:
        raise TooLarge(
            f"documents: title and metadata are stored with every chunk, which needs {repeated:,} bytes more; the "
            f"maximum is {_MAX_REPEATED_BYTES:,} per request: shorten them, or send fewer documents.",
            "documents",
        )
