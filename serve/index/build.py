"""Corpus -> index folder: read all of it, embed all of it, then write what searches."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from embedship import jsonl, sealed
from embedship.bundle import Codes, Pipeline, Similarity
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve import documents
from embedship.serve.documents import DOCUMENTS, Document
from embedship.serve.index import Index, Kind, corpus, library, manifest, measure
from embedship.serve.index.embedding import Embedding
from embedship.serve.index.folder import make
from embedship.serve.index.manifest import OVERSAMPLE, IndexManifest, Recall, Rescoring
from embedship.serve.index.truth import Truth
from embedship.staging import staged

# From here on the memory and the time that sign bits save outweigh the recall they cost.
FLAT_BELOW = 50_000

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class Step(StrEnum):
    READ = "reading"
    EMBED = "embedding"
    WRITE = "indexing"


Progress = Callable[[Step, int, int], object]  # what, how many documents are done, of how many (0: not known)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user may ask for."""

    kind: Kind | None = None  # None: by size
    with_title: bool = False
    oversample: int | None = None  # None: what the bundle measured, and never fewer than OVERSAMPLE
    queries: Path | None = None  # measure recall with these and not with sampled documents


@dataclass(frozen=True, slots=True)
class Built:
    manifest: IndexManifest
    seconds: float  # spent on embedding


def build(encoder: Encoder, variant: str, lines: Path, out: Path, wishes: Wishes, progress: Progress) -> Built:
    """Build the index of a corpus at `out`, whole or not at all.

    Raises UsageError for a bad line, a repeated id or an `out` that is something else, EngineError if the model
    fails, EmbedshipError if the disk does.
    """
    _refuse_inner_product(encoder.bundle.manifest.pipeline)
    queries = [] if wishes.queries is None else [row.text for row in jsonl.read(wishes.queries, jsonl.Text)]
    with staged(out, manifest.require_replaceable) as folder:
        with _disk_errors(folder / DOCUMENTS):
            size = documents.write(folder / DOCUMENTS, _counted(corpus.read(lines), progress))
        progress(Step.READ, size, size)
        kind = _kind(wishes.kind, size, encoder.bundle.manifest.pipeline.dimension)
        embedding = Embedding(encoder, wishes.with_title, lambda done, total: progress(Step.EMBED, done, total))
        truth = embedding.write(folder)
        rescoring = _rescoring(encoder.bundle.manifest.codes, truth.dimension, wishes) if kind is Kind.BINARY else None
        index = make(folder, truth, rescoring)
        progress(Step.WRITE, size, size)
        recall = _recall(index, truth, embedding, queries, wishes.queries)
        described = IndexManifest(
            format=manifest.FORMAT,
            fingerprint=encoder.bundle.fingerprint,
            variant=variant,
            kind=kind,
            size=size,
            dimension=truth.dimension,
            with_title=wishes.with_title,
            document_prompt=embedding.document_prompt,
            query_prompt=embedding.query_prompt,
            rescoring=rescoring,
            recall=recall,
            truncated=embedding.truncated,
            versions={"embedship": version("embedship"), "faiss": library.version()},
            created=sealed.created(),
            files={},
        )
        return Built(manifest.write(folder, described), embedding.seconds)


def _refuse_inner_product(pipeline: Pipeline) -> None:
    if pipeline.similarity is Similarity.DOT and not pipeline.normalised:
        raise UsageError(
            "this model was trained for the inner product of vectors of any length, and the index ranks by cosine: "
            "other documents would be found than in its evaluation. It can be served without an index"
        )


def _counted(lines: Iterator[tuple[int, Document]], progress: Progress) -> Iterator[tuple[int, Document]]:
    for done, line in enumerate(lines, 1):
        if done % 1000 == 0:
            progress(Step.READ, done, 0)
        yield line


def _kind(wanted: Kind | None, size: int, dimension: int) -> Kind:
    """Raises UsageError before hours are spent on vectors that cannot be packed into bytes."""
    if wanted is None:
        return Kind.FLAT if size < FLAT_BELOW or dimension % 8 else Kind.BINARY
    if wanted is Kind.BINARY and dimension % 8:
        raise UsageError(f"a binary index needs a dimension divisible by 8, not {dimension}: take --kind flat")
    return wanted


def _rescoring(codes: Codes, dimension: int, wishes: Wishes) -> Rescoring:
    """The bundle's frozen codes; its multiplier was measured over fewer documents than an index has."""
    return Rescoring(
        scale=codes.scale(dimension),
        threshold=codes.binary_threshold,
        oversample=wishes.oversample or max(codes.rescore, OVERSAMPLE),
    )


def _recall(index: Index, truth: Truth, embedding: Embedding, texts: list[str], source: Path | None) -> Recall | None:
    if source is None:
        return measure.by_documents(index, truth)
    return measure.by_queries(index, embedding.queries(texts), source.name)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """What SQLite says of a full or failing disk, as an OSError like any other."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _DISK:  # the low byte is the kind, the rest its detail
            raise
        raise OSError(None, str(error), str(path)) from error
