"""Builds an index folder from a corpus: reads all documents, embeds them, then writes the search structures."""

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
from embedship.serve.indexing.bulk_embedding import embed_with_pool
from embedship.serve.indexing.embedding import CorpusEmbedder

# From this number of vectors on, the saved memory and time of small codes are worth more than the lost recall.
FLAT_BELOW = 50_000


class BuildStep(StrEnum):
    """Step of a build, for the progress display."""

    READ = "reading"
    EMBED = "embedding"
    MEASURE = "measuring"
    WRITE = "indexing"


Progress = Callable[[BuildStep, int, int], object]  # called with step, documents done, total (0: not known yet)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """Options of a build, as the user sets them."""

    kind: IndexKind | None = None  # None: chosen by the number of vectors
    with_title: bool = False
    effort: SearchEffort | None = None  # effort settings that differ from the default
    store: RerankStore = RerankStore.INT8
    stage_dimension: int | None = None  # Matryoshka dimension of the first stage
    factory: str | None = None  # FAISS factory string, for IndexKind.FACTORY
    gpu: bool = False  # use the first GPU for the parts that a GPU can build
    goals: IndexGoals | None = None  # choose the kind by these requirements
    queries: Path | None = None  # measure recall with these queries; None: with sampled documents
    chunking: Chunking | None = None  # None: one vector per document, and long documents are truncated


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The index that was built."""

    manifest: IndexManifest
    texts: int  # embedded by this run
    seconds: float  # spent on embedding
    skipped: SkippedDocuments = NONE_SKIPPED  # documents of the corpus without text


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """How the vectors of an index were made."""

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
    options: IndexOptions,
    progress: Progress,
    encoders: EncoderPool | None = None,
) -> BuildResult:
    """Build the index of a corpus at `out`, completely or not at all.

    `encoders` embed the documents (None: `encoder` does). Documents without text are skipped. Raises UsageError for a
    bad line, a repeated id, or an `out` that is not an index; EngineError if the model fails; EmbedshipError if the
    disk fails.
    """
    bundle = encoder.bundle
    refuse_inner_product(bundle.manifest.pipeline)
    gpu = GpuResources() if options.gpu else None
    texts = read_queries(options)
    corpus = CorpusFile(lines, options.with_title)
    split = chunker_for_index(encoder.tokenizer, bundle.manifest.pipeline, options.chunking, options.with_title)
    with write_folder_atomically(out, manifest.require_replaceable) as folder:
        with disk_errors(folder / DOCUMENTS):
            size = documents_store.write(folder / DOCUMENTS, _report_progress(corpus.read(), progress), split)
        progress(BuildStep.READ, size, size)
        _prepare(options, size, bundle)
        on_progress = partial(progress, BuildStep.EMBED)
        embedder = CorpusEmbedder(encoder, options.with_title, on_progress)
        if encoders:
            corpus_vectors = embed_with_pool(encoders, folder, options.with_title, on_progress)
        else:
            corpus_vectors = embedder.write(folder)
        count = count_documents(folder)
        embedded = EmbeddingInfo(variant, count, options.with_title, options.chunking, corpus_vectors.truncated)
        queries = embedder.queries(texts) if texts else None
        built = finish(folder, corpus_vectors.truth, bundle, embedded, options, queries, progress, gpu=gpu)
        return BuildResult(built, built.size, corpus_vectors.seconds, corpus.skipped)


def finish(
    folder: Path,
    truth: ExactVectors,
    bundle: Bundle,
    embedded: EmbeddingInfo,
    options: IndexOptions,
    queries: Vectors | None,
    progress: Progress,
    *,
    gpu: GpuResources | None = None,
    created: str | None = None,
) -> IndexManifest:
    """Write the search structures next to the exact vectors, measure recall, and write the manifest with file hashes.

    `queries` are the embedded queries of the file `options.queries`. Raises UsageError, GoalsMissed.
    """
    pipeline, codes = bundle.manifest.pipeline, bundle.manifest.codes
    planned, effort, packing = _prepare(options, truth.size, bundle)
    choice = None
    if options.goals:
        choice = _choice(options.goals, folder, truth, embedded.documents, queries, options, bundle, progress)
        planned, effort = choice.measured[choice.chosen].recipe, choice.measured[choice.chosen].effort
        packing = QuantisationParams.from_recipe(planned, codes, truth.dimension)
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
        recall=_recall(index, truth, queries, options.queries),
        choice=choice,
        truncated=embedded.truncated,
        versions={"embedship": version("embedship"), "faiss": faiss_library.version()},
        created=created or sealed.creation_time(),
        files={},
    )
    return manifest.write(folder, described)


def _prepare(options: IndexOptions, size: int, bundle: Bundle) -> tuple[IndexSpec, SearchEffort, QuantisationParams]:
    """Return recipe, effort and codes. Called before the long embedding, so that bad options raise UsageError early."""
    pipeline = bundle.manifest.pipeline
    planned = _recipe(options, size, pipeline)
    packing = QuantisationParams.from_recipe(planned, bundle.manifest.codes, pipeline.dimension)
    return planned, kinds.effort(planned, options.effort), packing


def read_queries(options: IndexOptions) -> list[str]:
    """Return the texts of the query file; empty if there is none."""
    return [] if options.queries is None else [row.text for row in jsonl.read(options.queries, jsonl.QueryLine)]


def count_documents(folder: Path) -> int:
    """Return the number of documents, which may have several rows each."""
    with closing(DocumentStore.open(folder / DOCUMENTS)) as written:
        return written.count


def refuse_inner_product(pipeline: ModelSpec) -> None:
    """Raise UsageError if the model needs the inner product of vectors that are not normalised."""
    if pipeline.similarity is Similarity.DOT and not pipeline.normalised:
        raise UsageError(
            "this model was trained for the inner product of vectors that are not normalised, but an index ranks by "
            "cosine: it would find other documents than in the model's evaluation. Serve the model without an index"
        )


def _report_progress(lines: Iterator[tuple[int, Document]], progress: Progress) -> Iterator[tuple[int, Document]]:
    for done, line in enumerate(lines, 1):
        if done % 1000 == 0:
            progress(BuildStep.READ, done, 0)
        yield line


def _recipe(options: IndexOptions, size: int, pipeline: ModelSpec) -> IndexSpec:
    dimension = pipeline.dimension if options.stage_dimension is None else options.stage_dimension
    recipe.require_matryoshka(pipeline, dimension)
    if options.factory is not None:
        factory.make(options.factory, dimension)
        return IndexSpec(kind=IndexKind.FACTORY, factory=options.factory, dimension=dimension, store=options.store)
    kind = options.kind or default_kind(size, dimension)
    return recipe.make_recipe(kind, size, pipeline.dimension if kind is IndexKind.FLAT else dimension, options.store)


def _choice(
    requirements: IndexGoals,
    folder: Path,
    truth: ExactVectors,
    documents: int,
    queries: Vectors | None,
    options: IndexOptions,
    bundle: Bundle,
    progress: Progress,
) -> IndexChoice:
    contents = bundle.manifest
    candidates = goals.recipes(truth.size, contents.pipeline, options.store)
    grouping = manifest.grouping(truth.size, documents)
    plan = goals.MeasurementPlan(
        candidates, contents.codes, lambda done, total: progress(BuildStep.MEASURE, done, total), grouping
    )
    return goals.choose(folder, truth, queries, options.queries.name if options.queries else "", requirements, plan)


def default_kind(size: int, dimension: int) -> IndexKind:
    """Return the kind of index for `size` vectors if the user chose none."""
    return IndexKind.FLAT if size < FLAT_BELOW or dimension % recipe.PART else IndexKind.PQ


def _recall(index: Index, truth: ExactVectors, queries: Vectors | None, source: Path | None) -> IndexRecall | None:
    if source is None or queries is None:
        return measure.by_documents(index, truth)
    return measure.by_queries(index, queries, source.name)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise SQLite errors of a full or failing disk as OSError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not documents_store.disk_refuses(error):
            raise
        raise OSError(None, str(error), str(path)) from error
