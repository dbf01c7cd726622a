"""Loads a corpus into a Milvus collection, completely or not at all: it is filled under another name, then renamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve.documents.changes import PutDocument
from embedship.serve.documents.corpus import CorpusFile, SkippedDocuments
from embedship.serve.documents.store import Document
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.manifest import TruncatedTexts
from embedship.serve.indexing.build import FLAT_BELOW, IndexOptions, refuse_inner_product
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.milvus import collection_metadata
from embedship.serve.milvus.backend import MilvusBackend
from embedship.serve.milvus.connection import SLOW_SECONDS, MilvusConnection
from embedship.serve.search.address import Address
from embedship.serve.search.backend import BackendUnavailable

BATCH = 512

_LOADING = "_loading"

Progress = Callable[[int, int], object]  # called with documents done and total


class LoadReport(msgspec.Struct, frozen=True):
    """The report that `--json` prints."""

    index: str
    fingerprint: str
    variant: str
    kind: IndexKind
    effort: SearchEffort
    documents: int
    skipped: SkippedDocuments  # documents of the corpus without text
    dimension: int
    truncated: TruncatedTexts
    texts_per_second: float


def load(
    encoder: Encoder, variant: str, lines: Path, address: Address, options: IndexOptions, progress: Progress
) -> LoadReport:
    """Load a corpus into the new collection at `address`. Only the options kind, with_title and effort are used.

    Raises UsageError for a bad line, a repeated id, or a collection that exists already; BackendUnavailable.
    """
    bundle = encoder.bundle
    refuse_inner_product(bundle.manifest.pipeline)
    corpus = CorpusFile(lines, options.with_title)
    count = _count(corpus)
    kind = options.kind or (IndexKind.FLAT if count < FLAT_BELOW else IndexKind.HNSW_SQ8)
    metadata = collection_metadata.card(bundle, variant, kind, options.with_title, options.effort)
    temporary = Address(address.uri, address.collection + _LOADING)
    connection = MilvusConnection.open(address, SLOW_SECONDS)
    try:
        _clear(connection, address, temporary)
        collection_metadata.make(connection, temporary.collection, metadata)
        with MilvusBackend.open(temporary, bundle, writable=True, quick_seconds=SLOW_SECONDS) as collection:
            embedder = CorpusEmbedder(encoder, options.with_title, lambda *_: None)
            seconds = _fill(collection, embedder, corpus, count, progress)
            if (stored := collection.index.count(None)) != count:
                raise BackendUnavailable(
                    f"{address}: only {stored:,} of {count:,} documents were stored, so the collection was not "
                    "created: load it again"
                )
        connection.call("flush", temporary.collection)
        connection.call("rename_collection", temporary.collection, address.collection)
    finally:
        connection.close()
    return LoadReport(
        str(address), bundle.fingerprint, variant, kind, metadata.effort, count, corpus.skipped, metadata.dimension,
        embedder.truncated, round(count / seconds, 1),
    )  # fmt: skip


def _count(corpus: CorpusFile) -> int:
    """Read the whole corpus before anything is created. Raises UsageError for the first bad line or repeated id."""
    first: dict[str, int] = {}
    for number, document in corpus.read():
        if (before := first.setdefault(document.id, number)) != number:
            raise UsageError(
                f"line {number}: the id {document.id!r} is also that of line {before}: give each document its own id"
            )
    return len(first)


def _clear(connection: MilvusConnection, address: Address, temporary: Address) -> None:
    """Drop the unfinished collection of a killed load. Raise UsageError if the finished one exists: it is kept."""
    if connection.call("has_collection", address.collection):
        raise UsageError(
            f"{address} exists already, and may be in use: load into another COLLECTION, and reload the servers with it"
        )
    connection.call("drop_collection", temporary.collection)


def _fill(
    collection: MilvusBackend, embedder: CorpusEmbedder, corpus: CorpusFile, count: int, progress: Progress
) -> float:
    """Embed the documents and write them. Return the seconds that the model took."""
    done, seconds = 0, 0.0
    for batch in _batches(document for _, document in corpus.read()):
        started = time.perf_counter()
        vectors = embedder.documents(batch)
        seconds += time.perf_counter() - started
        collection.write([PutDocument(each, [each], vectors[at : at + 1]) for at, each in enumerate(batch)])
        done += len(batch)
        progress(done, count)
    return seconds


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH)):
        yield batch
