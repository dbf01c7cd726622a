"""A corpus -> a collection, whole or not at all: filled under another name, and renamed at the end."""

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
from embedship.serve.milvus import collection_metadata as cards
from embedship.serve.milvus.backend import MilvusBackend
from embedship.serve.milvus.connection import SLOW_SECONDS, MilvusConnection
from embedship.serve.search.address import Address
from embedship.serve.search.backend import BackendUnavailable

BATCH = 512

_LOADING = "_loading"

Progress = Callable[[int, int], object]  # documents done, of how many


class LoadReport(msgspec.Struct, frozen=True):
    """What `--json` prints."""

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
    encoder: Encoder, variant: str, lines: Path, address: Address, wishes: IndexOptions, progress: Progress
) -> LoadReport:
    """Of the wishes kind, title and effort count.

    Raises UsageError for a bad line, a repeated id, or where a collection of this name is there; Lost.
    """
    bundle = encoder.bundle
    refuse_inner_product(bundle.manifest.pipeline)
    corpus = CorpusFile(lines, wishes.with_title)
    count = _count(corpus)
    kind = wishes.kind or (IndexKind.FLAT if count < FLAT_BELOW else IndexKind.HNSW_SQ8)
    card = cards.card(bundle, variant, kind, wishes.with_title, wishes.effort)
    unfinished = Address(address.uri, address.collection + _LOADING)
    line = MilvusConnection.open(address, SLOW_SECONDS)
    try:
        _clear(line, address, unfinished)
        cards.make(line, unfinished.collection, card)
        with MilvusBackend.open(unfinished, bundle, writable=True, quick_seconds=SLOW_SECONDS) as collection:
            embedding = CorpusEmbedder(encoder, wishes.with_title, lambda *_: None)
            seconds = _fill(collection, embedding, corpus, count, progress)
            if (there := collection.index.count(None)) != count:
                raise BackendUnavailable(
                    f"{address}: of {count:,} documents {there:,} are there, and it was not made: load it again"
                )
        line.call("flush", unfinished.collection)
        line.call("rename_collection", unfinished.collection, address.collection)
    finally:
        line.close()
    return LoadReport(
        str(address), bundle.fingerprint, variant, kind, card.effort, count, corpus.skipped, card.dimension,
        embedding.truncated, round(count / seconds, 1),
    )  # fmt: skip


def _count(corpus: CorpusFile) -> int:
    """Read all of it before anything is made. Raises UsageError naming the first bad line or repeated id."""
    first: dict[str, int] = {}
    for number, document in corpus.read():
        if (before := first.setdefault(document.id, number)) != number:
            raise UsageError(f"line {number}: the id {document.id!r} was given to line {before} already")
    return len(first)


def _clear(line: MilvusConnection, address: Address, unfinished: Address) -> None:
    """What a load that was killed has left is ours to drop; what is whole is not."""
    if line.call("has_collection", address.collection):
        raise UsageError(
            f"{address} is there already, and may be served: give another COLLECTION, and let servers take it up by "
            "a reload"
        )
    line.call("drop_collection", unfinished.collection)


def _fill(
    collection: MilvusBackend, embedding: CorpusEmbedder, corpus: CorpusFile, count: int, progress: Progress
) -> float:
    """The seconds that the model took."""
    done, seconds = 0, 0.0
    for batch in _batches(document for _, document in corpus.read()):
        began = time.perf_counter()
        vectors = embedding.documents(batch)
        seconds += time.perf_counter() - began
        collection.write([PutDocument(each, [each], vectors[at : at + 1]) for at, each in enumerate(batch)])
        done += len(batch)
        progress(done, count)
    return seconds


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH)):
        yield batch
