"""Corpus -> index folder: read all of it, embed all of it, then write what searches."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path

from embedship.bundle import Bundle, ModelSpec, Similarity, VectorCode
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.files import jsonl, sealed
from embedship.files.atomic_folder import write_folder_atomically
from embedship.serve.bulk.shards import EncoderPool
from embedship.serve.documents import store as documents_store
from embedship.serve.documents.chunking import Chunking, chunker_for_index
from embedship.serve.documents.corpus import NONE_SKIPPED, CorpusFile, SkippedDocuments
from embedship.serve.documents.store import DOCUMENTS, Document, DocumentStore
from embedship.serve.index import Index, IndexKind, factory, faiss_library, kinds, manifest, recipe
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.gpu import GpuResources
from embedship.serve.index.manifest import (
    IndexChoice,
    IndexGoals,
    IndexManifest,
    IndexRecall,
    QuantisationParams,
    TruncatedTexts,
)
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.indexing import goals, measure
from embedship.serve.indexing.bulk_embedding import gather
from embedship.serve.indexing.embedding import CorpusEmbedder

# From here on the memory and the time that a small code saves outweigh the recall it costs.
FLAT_BELOW = 50_000


class BuildStep(StrEnum):
    READ = "reading"
    EMBED = "embedding"
    MEASURE = "measuring"
    WRITE = "indexing"


Progress = Callable[[BuildStep, int, int], object]  # what, how many documents are done, of how many (0: not known)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What the user may ask for."""

    kind: IndexKind | None = None  # None: by size
    with_title: bool = False
    effort: SearchEffort | None = None  # knobs to turn from the default
    store: RerankStore = RerankStore.INT8
    stage_dimension: int | None = None  # Matryoshka: of the first stage
    factory: str | None = None  # of Kind.FACTORY
    gpu: bool = False  # build on the first GPU what it can build
    goals: IndexGoals | None = None  # instead of a kind: what the index has to do
    queries: Path | None = None  # measure recall with these and not with sampled documents
    chunking: Chunking | None = None  # None: a vector a document, and what is too long is cut off


@dataclass(frozen=True, slots=True)
class BuildResult:
    manifest: IndexManifest
    texts: int  # that were embedded by this run
    seconds: float  # that it took
    skipped: SkippedDocuments = NONE_SKIPPED  # documents of the corpus without text


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """Where the vectors of an index came from."""

    variant: str
    documents: int
    with_title: bool
    chunking: Chunking | None
    truncated: TruncatedTexts


def build(
    encoder: Encoder,
    variant: str,
    lines: Path,
    out: Path,
    wishes: IndexOptions,
    progress: Progress,
    encoders: EncoderPool | None = None,
) -> BuildResult:
    """Build the index of a corpus at `out`, whole or not at all; `encoders` (None: this one) embed its documents.

    Documents without text are skipped. Raises UsageError for a bad line, a repeated id or an `out` that is something
    else, EngineError if the model fails, EmbedshipError if the disk does.
    """
    bundle = encoder.bundle
    refuse_inner_product(bundle.manifest.pipeline)
    gpu = GpuResources() if wishes.gpu else None
    texts = questions(wishes)
    corpus = CorpusFile(lines, wishes.with_title)
    split = chunker_for_index(encoder.tokenizer, bundle.manifest.pipeline, wishes.chunking, wishes.with_title)
    with write_folder_atomically(out, manifest.require_replaceable) as folder:
        with disk_errors(folder / DOCUMENTS):
            size = documents_store.write(folder / DOCUMENTS, _counted(corpus.read(), progress), split)
        progress(BuildStep.READ, size, size)
        _planned(wishes, size, bundle)
        told = partial(progress, BuildStep.EMBED)
        embedding = CorpusEmbedder(encoder, wishes.with_title, told)
        found = gather(encoders, folder, wishes.with_title, told) if encoders else embedding.write(folder)
        count = count_of(folder)
        embedded = EmbeddingInfo(variant, count, wishes.with_title, wishes.chunking, found.truncated)
        asked = embedding.queries(texts) if texts else None
        made = finish(folder, found.truth, bundle, embedded, wishes, asked, progress, gpu=gpu)
        return BuildResult(made, made.size, found.seconds, corpus.skipped)


def finish(
    folder: Path,
    truth: ExactVectors,
    bundle: Bundle,
    embedded: EmbeddingInfo,
    wishes: IndexOptions,
    queries: Vectors | None,
    progress: Progress,
    *,
    gpu: GpuResources | None = None,
    created: str | None = None,
) -> IndexManifest:
    """Write what searches these vectors beside them, measure it, and seal the folder.

    `queries` are those of the file that the wishes name. Raises UsageError, GoalsMissed.
    """
    pipeline, codes = bundle.manifest.pipeline, bundle.manifest.codes
    planned, effort, packing = _planned(wishes, truth.size, bundle)
    choice = None
    if wishes.goals:
        choice = _choice(wishes.goals, folder, truth, embedded.documents, queries, wishes, bundle, progress)
        planned, effort = choice.measured[choice.chosen].recipe, choice.measured[choice.chosen].effort
        packing = QuantisationParams.of(planned, codes, truth.dimension)
    index = kinds.write(folder, truth, planned, packing, effort, gpu)
    progress(BuildStep.WRITE, truth.size, truth.size)
    described = IndexManifest(
        format=manifest.FORMAT,
        fingerprint=bundle.fingerprint,
        variant=embedded.variant,
        recipe=planned,
        effort=index.effort,
        size=truth.size,
        documents=embedded.documents,
        dimension=truth.dimension,
        with_title=embedded.with_title,
        chunking=embedded.chunking,
        document_prompt=pipeline.document_prompt,
        query_prompt=pipeline.query_prompt,
        prompts=manifest.prompts(pipeline),
        exact=VectorCode.FLOAT16,
        packing=packing,
        recall=_recall(index, truth, queries, wishes.queries),
        choice=choice,
        truncated=embedded.truncated,
        versions={"embedship": version("embedship"), "faiss": faiss_library.version()},
        created=created or sealed.creation_time(),
        files={},
    )
    return manifest.write(folder, described)


def _planned(wishes: IndexOptions, size: int, bundle: Bundle) -> tuple[IndexSpec, SearchEffort, QuantisationParams]:
    """Raises UsageError before hours are spent on vectors that cannot be searched in this way."""
    pipeline = bundle.manifest.pipeline
    planned = _recipe(wishes, size, pipeline)
    packing = QuantisationParams.of(planned, bundle.manifest.codes, pipeline.dimension)
    return planned, kinds.effort(planned, wishes.effort), packing


def questions(wishes: IndexOptions) -> list[str]:
    return [] if wishes.queries is None else [row.text for row in jsonl.read(wishes.queries, jsonl.QueryLine)]


def count_of(folder: Path) -> int:
    """Documents, however many rows they have."""
    with closing(DocumentStore.open(folder / DOCUMENTS)) as written:
        return written.count


def refuse_inner_product(pipeline: ModelSpec) -> None:
    if pipeline.similarity is Similarity.DOT and not pipeline.normalised:
        raise UsageError(
            "this model was trained for the inner product of vectors of any length, and the index ranks by cosine: "
            "other documents would be found than in its evaluation. It can be served without an index"
        )


def _counted(lines: Iterator[tuple[int, Document]], progress: Progress) -> Iterator[tuple[int, Document]]:
    for done, line in enumerate(lines, 1):
        if done % 1000 == 0:
            progress(BuildStep.READ, done, 0)
        yield line


def _recipe(wishes: IndexOptions, size: int, pipeline: ModelSpec) -> IndexSpec:
    dimension = pipeline.dimension if wishes.stage_dimension is None else wishes.stage_dimension
    recipe.require_matryoshka(pipeline, dimension)
    if wishes.factory is not None:
        factory.make(wishes.factory, dimension)
        return IndexSpec(kind=IndexKind.FACTORY, factory=wishes.factory, dimension=dimension, store=wishes.store)
    kind = wishes.kind or default_kind(size, dimension)
    return recipe.of(kind, size, pipeline.dimension if kind is IndexKind.FLAT else dimension, wishes.store)


def _choice(
    wanted: IndexGoals,
    folder: Path,
    truth: ExactVectors,
    documents: int,
    queries: Vectors | None,
    wishes: IndexOptions,
    bundle: Bundle,
    progress: Progress,
) -> IndexChoice:
    described = bundle.manifest
    candidates = goals.recipes(truth.size, described.pipeline, wishes.store)
    grouping = manifest.grouping(truth.size, documents)
    plan = goals.MeasurementPlan(
        candidates, described.codes, lambda done, total: progress(BuildStep.MEASURE, done, total), grouping
    )
    return goals.choose(folder, truth, queries, wishes.queries.name if wishes.queries else "", wanted, plan)


def default_kind(size: int, dimension: int) -> IndexKind:
    return IndexKind.FLAT if size < FLAT_BELOW or dimension % recipe.PART else IndexKind.PQ


def _recall(index: Index, truth: ExactVectors, queries: Vectors | None, source: Path | None) -> IndexRecall | None:
    if source is None or queries is None:
        return measure.by_documents(index, truth)
    return measure.by_queries(index, queries, source.name)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What SQLite says of a full or failing disk, as an OSError like any other."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not documents_store.disk_refuses(error):
            raise
        raise OSError(None, str(error), str(path)) from error
