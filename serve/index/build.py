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
from embedship.bundle import Pipeline, Similarity
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve import documents
from embedship.serve.documents import DOCUMENTS, Document
from embedship.serve.index import Index, Kind, corpus, factory, goals, kinds, library, manifest, measure, recipe
from embedship.serve.index.effort import Effort
from embedship.serve.index.embedding import Embedding
from embedship.serve.index.manifest import Choice, Goals, IndexManifest, Packing, Recall
from embedship.serve.index.recipe import Recipe, Store
from embedship.serve.index.truth import Truth
from embedship.staging import staged

# From here on the memory and the time that a small code saves outweigh the recall it costs.
FLAT_BELOW = 50_000

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class Step(StrEnum):
    READ = "reading"
    EMBED = "embedding"
    MEASURE = "measuring"
    WRITE = "indexing"


Progress = Callable[[Step, int, int], object]  # what, how many documents are done, of how many (0: not known)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user may ask for."""

    kind: Kind | None = None  # None: by size
    with_title: bool = False
    effort: Effort | None = None  # knobs to turn from the default
    store: Store = Store.INT8
    stage_dimension: int | None = None  # Matryoshka: of the first stage
    factory: str | None = None  # of Kind.FACTORY
    goals: Goals | None = None  # instead of a kind: what the index has to do
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
    pipeline, codes = encoder.bundle.manifest.pipeline, encoder.bundle.manifest.codes
    _refuse_inner_product(pipeline)
    queries = [] if wishes.queries is None else [row.text for row in jsonl.read(wishes.queries, jsonl.Text)]
    with staged(out, manifest.require_replaceable) as folder:
        with _disk_errors(folder / DOCUMENTS):
            size = documents.write(folder / DOCUMENTS, _counted(corpus.read(lines), progress))
        progress(Step.READ, size, size)
        planned = _recipe(wishes, size, pipeline)
        effort = kinds.effort(planned, wishes.effort)
        packing = Packing.of(planned, codes, pipeline.dimension)
        embedding = Embedding(encoder, wishes.with_title, lambda done, total: progress(Step.EMBED, done, total))
        truth = embedding.write(folder)
        choice = None
        if wishes.goals:
            asked = embedding.queries(queries) if wishes.queries else None
            choice = _choice(wishes.goals, folder, truth, asked, wishes, encoder, progress)
            planned, effort = choice.measured[choice.chosen].recipe, choice.measured[choice.chosen].effort
            packing = Packing.of(planned, codes, truth.dimension)
        index = kinds.write(folder, truth, planned, packing, effort)
        progress(Step.WRITE, size, size)
        recall = _recall(index, truth, embedding, queries, wishes.queries)
        described = IndexManifest(
            format=manifest.FORMAT,
            fingerprint=encoder.bundle.fingerprint,
            variant=variant,
            recipe=planned,
            effort=index.effort,
            size=size,
            dimension=truth.dimension,
            with_title=wishes.with_title,
            document_prompt=embedding.document_prompt,
            query_prompt=embedding.query_prompt,
            packing=packing,
            recall=recall,
            choice=choice,
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


def _recipe(wishes: Wishes, size: int, pipeline: Pipeline) -> Recipe:
    """Raises UsageError before hours are spent on vectors that cannot be searched in this way."""
    dimension = pipeline.dimension if wishes.stage_dimension is None else wishes.stage_dimension
    recipe.require_matryoshka(pipeline, dimension)
    if wishes.factory is not None:
        factory.make(wishes.factory, dimension)
        return Recipe(kind=Kind.FACTORY, factory=wishes.factory, dimension=dimension, store=wishes.store)
    kind = wishes.kind or default_kind(size, dimension)
    return recipe.of(kind, size, pipeline.dimension if kind is Kind.FLAT else dimension, wishes.store)


def _choice(
    wanted: Goals,
    folder: Path,
    truth: Truth,
    queries: Vectors | None,
    wishes: Wishes,
    encoder: Encoder,
    progress: Progress,
) -> Choice:
    described = encoder.bundle.manifest
    candidates = goals.recipes(truth.size, described.pipeline, wishes.store)
    plan = goals.Plan(candidates, described.codes, lambda done, total: progress(Step.MEASURE, done, total))
    return goals.choose(folder, truth, queries, wishes.queries.name if wishes.queries else "", wanted, plan)


def default_kind(size: int, dimension: int) -> Kind:
    return Kind.FLAT if size < FLAT_BELOW or dimension % recipe.PART else Kind.PQ


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
