"""Corpus -> index folder: read all of it, embed all of it, then write what searches."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import msgspec

from embedship import jsonl, sealed
from embedship.bundle import Bundle, Code, Codes, Pipeline, Similarity
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve import documents
from embedship.serve.documents import DOCUMENTS, Document, Documents, Split
from embedship.serve.index import Index, Kind, corpus, library, manifest, measure
from embedship.serve.index.binary import BinaryIndex
from embedship.serve.index.chunks import Chunking, splitter
from embedship.serve.index.embedding import Embedding
from embedship.serve.index.flat import FlatIndex
from embedship.serve.index.manifest import OVERSAMPLE, IndexManifest, Recall, Rescoring, Truncated
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
    chunking: Chunking | None = None  # None: a vector a document, and what is too long is cut off


@dataclass(frozen=True, slots=True)
class Built:
    manifest: IndexManifest
    seconds: float  # spent on embedding


def build(encoder: Encoder, variant: str, lines: Path, out: Path, wishes: Wishes, progress: Progress) -> Built:
    """Build the index of a corpus at `out`, whole or not at all.

    Raises UsageError for a bad line, a repeated id or an `out` that is something else, EngineError if the model
    fails, EmbedshipError if the disk does.
    """
    pipeline = encoder.bundle.manifest.pipeline
    refuse_inner_product(pipeline)
    queries = questions(wishes)
    split = split_of(encoder, wishes)
    with staged(out, manifest.require_replaceable) as folder:
        with disk_errors(folder / DOCUMENTS):
            size = documents.write(folder / DOCUMENTS, _counted(corpus.read(lines), progress), split)
        progress(Step.READ, size, size)
        kind_of(wishes.kind, size, pipeline.dimension)  # refused before hours are spent
        embedding = Embedding(encoder, wishes.with_title, lambda done, total: progress(Step.EMBED, done, total))
        truth = embedding.write(folder)
        base = described(encoder, variant, folder, truth, wishes)
        base = msgspec.structs.replace(base, truncated=embedding.truncated)
        made = finish(folder, truth, encoder.bundle, base, wishes, lambda: embedding.queries(queries))
        progress(Step.WRITE, size, size)
        return Built(made, embedding.seconds)


def described(encoder: Encoder, variant: str, folder: Path, truth: Truth, wishes: Wishes) -> IndexManifest:
    """What is known of an index once its documents are embedded; `finish` adds how it searches."""
    pipeline = encoder.bundle.manifest.pipeline
    with closing(Documents.open(folder / DOCUMENTS)) as written:
        count = written.count
    return IndexManifest(
        format=manifest.FORMAT,
        fingerprint=encoder.bundle.fingerprint,
        variant=variant,
        kind=Kind.FLAT,
        size=truth.size,
        documents=count,
        dimension=truth.dimension,
        with_title=wishes.with_title,
        chunking=wishes.chunking,
        document_prompt=pipeline.document_prompt,
        query_prompt=pipeline.query_prompt,
        prompts=manifest.prompts(pipeline),
        exact=Code.FLOAT16,
        rescoring=None,
        recall=None,
        truncated=Truncated(),
        versions={},
        created="",
        files={},
    )


def finish(
    folder: Path,
    truth: Truth,
    bundle: Bundle,
    base: IndexManifest,
    wishes: Wishes,
    queries: Callable[[], Vectors],
    created: str | None = None,
) -> IndexManifest:
    """Write what searches these vectors beside them, measure it, and seal the folder."""
    kind = kind_of(wishes.kind, truth.size, truth.dimension)
    rescoring = _rescoring(bundle.manifest.codes, truth.dimension, wishes) if kind is Kind.BINARY else None
    index = FlatIndex.write(folder, truth) if rescoring is None else BinaryIndex.write(folder, truth, rescoring)
    described = msgspec.structs.replace(
        base,
        kind=kind,
        rescoring=rescoring,
        recall=_recall(index, truth, queries, wishes.queries),
        versions={"embedship": version("embedship"), "faiss": library.version()},
        created=created or sealed.created(),
    )
    return manifest.write(folder, described)


def questions(wishes: Wishes) -> list[str]:
    return [] if wishes.queries is None else [row.text for row in jsonl.read(wishes.queries, jsonl.Text)]


def split_of(encoder: Encoder, wishes: Wishes) -> Split | None:
    if wishes.chunking is None:
        return None
    pipeline = encoder.bundle.manifest.pipeline
    prompt = encoder.tokenizer.prompt(pipeline.document_prompt)
    return splitter(encoder.tokenizer, prompt, wishes.chunking, pipeline.max_tokens, wishes.with_title)


def refuse_inner_product(pipeline: Pipeline) -> None:
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


def kind_of(wanted: Kind | None, size: int, dimension: int) -> Kind:
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


def _recall(index: Index, truth: Truth, queries: Callable[[], Vectors], source: Path | None) -> Recall | None:
    if source is None:
        return measure.by_documents(index, truth)
    return measure.by_queries(index, queries(), source.name)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What SQLite says of a full or failing disk, as an OSError like any other."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _DISK:  # the low byte is the kind, the rest its detail
            raise
        raise OSError(None, str(error), str(path)) from error
