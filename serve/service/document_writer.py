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
from embedship.serve.batching.model_client import Encoded
from embedship.serve.documents.changes import Change, Delete, Done, Pieces
from embedship.serve.documents.store import Document
from embedship.serve.errors import DiskFull, IndexAway, Invalid, NotStored, ReadOnly
from embedship.serve.indexing.embedding import text_of
from embedship.serve.live.compaction import Compaction, Result
from embedship.serve.live.index import LiveIndex
from embedship.serve.search.backend import Lost, NotWritten, Writable
from embedship.serve.service.query_pipeline import Pipeline
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Metrics

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Changed:
    done: Done
    unchanged: int
    embedded: Sequence[Document]  # chunks, where the index is of such
    encoded: Encoded | None  # of those


class Writes:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(self, pipeline: Pipeline, index: Writable | None, metrics: Metrics, settings: Settings) -> None:
        """`index` is the one that takes changes, None where none does."""
        self._pipeline = pipeline
        self._most = settings.max_texts
        self._metrics = metrics
        self._index = index
        # One thread: transactions come one after the other, and a slow disk holds up no search.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writes")
        self._split = pipeline.split_of(index.manifest) if index else None
        # Who keeps changes elsewhere compacts them there.
        live = index if isinstance(index, LiveIndex) else None
        self._compaction = Compaction(live, settings.compact_share, self._compacted) if live else None

    async def change(self, documents: Sequence[Document], deleted: Sequence[str]) -> Changed:
        """Put and delete; when this returns, it is on the disk and every search sees it."""
        index = self._writable()
        pieces = await self._beside(lambda: self._pieces(index, documents)) if documents else Pieces([], [])
        embedded, encoded = pieces.rows, None
        changes: list[Change] = [Delete(id) for id in deleted]
        if embedded:
            encoded = await self._encoded([text_of(each, index.manifest.with_title) for each in embedded], index)
            changes += pieces.puts(encoded.vectors)
        done = await self._written(index, changes) if changes else Done()
        return Changed(done, len(documents) - len(pieces.documents), embedded, encoded)

    def close(self) -> None:
        """What is being written is written, what is being compacted is compacted."""
        self._thread.shutdown()
        if self._compaction:
            self._compaction.close()

    def _writable(self) -> Writable:
        self._pipeline.require_index()
        if self._index is None:
            raise ReadOnly("This server holds its index for reading only: start it with --writable.")
        return self._index

    def _pieces(self, index: Writable, documents: Sequence[Document]) -> Pieces:
        try:
            return Pieces.of(index.differing(documents), self._split)
        except UsageError as error:
            raise Invalid(f"{error}.", "documents") from None

    async def _encoded(self, texts: Sequence[str], index: Writable) -> Encoded:
        """No more at once than one request may bring: the chunks of one document may be more than the queue holds."""
        prompt = index.manifest.document_prompt
        parts = [
            await self._pipeline.documents(texts[start : start + self._most], prompt)
            for start in range(0, len(texts), self._most)
        ]
        return Encoded(
            np.concatenate([part.vectors for part in parts]),
            [length for part in parts for length in part.lengths],
            [cut for part in parts for cut in part.cut],
        )

    async def _written(self, index: Writable, changes: Sequence[Change]) -> Done:
        began = time.perf_counter()
        try:
            done = await self._beside(lambda: index.write(changes))
        except NotWritten as error:
            kind = DiskFull if error.full else NotStored
            raise kind(f"{str(error)[0].upper()}{str(error)[1:]}.", headers={"Retry-After": "30"}) from error
        except UsageError as error:
            raise Invalid(f"{error}.", "documents") from None
        self._metrics.write_seconds.observe(time.perf_counter() - began)
        for change, documents in msgspec.structs.asdict(done).items():
            self._metrics.changes[change].inc(documents)
        if self._compaction:
            self._compaction.look()
        return done

    async def _beside(self, work: Callable[[], Got]) -> Got:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Lost as error:
            raise IndexAway.of(error) from error

    def _compacted(self, result: Result, seconds: float) -> None:
        """Called on the thread of the compaction; counters may be."""
        self._metrics.compactions[result].inc()
        self._metrics.compaction_seconds.inc(seconds)
        if result is Result.DONE:
            self._metrics.compacted.set_to_current_time()
