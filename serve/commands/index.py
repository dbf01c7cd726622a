"""Command `index`: builds a search index from a bundle and a corpus."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.commands.options import BundleArgument, JsonOption, with_options
from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.serve.commands import index_goals
from embedship.serve.commands.index_progress import IndexProgress
from embedship.serve.commands.index_report import report, show
from embedship.serve.documents.chunking import Chunking
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import LIMITS, SearchEffort
from embedship.serve.index.recipe import RerankStore
from embedship.serve.search.address import Address, parse_location

if TYPE_CHECKING:
    from embedship.serve.bulk.shards import EncoderPool
    from embedship.serve.indexing.build import BuildResult, IndexOptions

_DOCUMENTS, _KIND, _EFFORT, _GOALS, _COMPUTE = (
    "Documents",
    "Kind of index",
    "Search effort",
    "Build by goal",
    "Where it runs",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexCommandOptions:
    """Arguments and options of `embedship index`."""

    bundle: BundleArgument
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS.jsonl",
            help='One document per line: {"id", "text"} and optionally "title" and "metadata". BEIR\'s "_id" is '
            'accepted in place of "id"; other keys are stored as metadata.',
        ),
    ] = None
    out: Annotated[
        Any,
        typer.Option(
            parser=parse_location,
            metavar="INDEX",
            help="Where the index is written: a folder (an existing index there is replaced when the new one is "
            "complete), or a new Milvus collection, milvus://HOST:PORT/COLLECTION.",
        ),
    ]
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="INDEX",
            help="Copy documents and vectors from this index of the same model instead of embedding a corpus. Use "
            "it to change --kind.",
            rich_help_panel=_DOCUMENTS,
        ),
    ] = None
    with_title: Annotated[
        bool,
        typer.Option(
            "--with-title", help="Embed the title and the text, not only the text.", rich_help_panel=_DOCUMENTS
        ),
    ] = False
    chunk: Annotated[
        int | None,
        typer.Option(
            help="Split documents into chunks of at most this many tokens, including prompt and special tokens "
            "(default: one vector per document, and text beyond the model's maximum length is ignored).",
            rich_help_panel=_DOCUMENTS,
        ),
    ] = None
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens shared by two adjacent chunks (default: 0).", rich_help_panel=_DOCUMENTS
        ),
    ] = None
    kind: Annotated[
        IndexKind | None,
        typer.Option(
            help="flat searches exactly. The other kinds find candidates and re-rank them with codes on disk, see "
            "docs/search.md. Default: flat below 50,000 documents, otherwise pq.",
            rich_help_panel=_KIND,
        ),
    ] = None
    store: Annotated[
        RerankStore,
        typer.Option(help="Vectors on disk that re-rank the candidates: int8 codes or float16.", rich_help_panel=_KIND),
    ] = RerankStore.INT8
    stage_dimension: Annotated[
        int | None,
        typer.Option(
            help="Matryoshka dimension used to find candidates (default: the model's dimension).", rich_help_panel=_KIND
        ),
    ] = None
    factory: Annotated[
        str | None,
        typer.Option(
            help='First stage as a FAISS factory string, such as "OPQ48,IVF1024,PQ48x4fs", instead of --kind.',
            rich_help_panel=_KIND,
        ),
    ] = None
    oversample: Annotated[
        int | None,
        typer.Option(
            min=LIMITS["oversample"][0],
            max=LIMITS["oversample"][1],
            help="Candidates to re-rank per requested hit. Requests for fewer than ten hits count as ten.",
            rich_help_panel=_EFFORT,
        ),
    ] = None
    nprobe: Annotated[
        int | None,
        typer.Option(
            min=LIMITS["nprobe"][0],
            max=LIMITS["nprobe"][1],
            help="ivf: number of lists to scan.",
            rich_help_panel=_EFFORT,
        ),
    ] = None
    ef_search: Annotated[
        int | None,
        typer.Option(
            min=LIMITS["ef_search"][0],
            max=LIMITS["ef_search"][1],
            help="hnsw: size of the candidate list during a search.",
            rich_help_panel=_EFFORT,
        ),
    ] = None
    queries: Annotated[
        Path | None,
        typer.Option(
            help='Measure recall with these queries, {"text"} per line (default: with sampled documents).',
            rich_help_panel=_GOALS,
        ),
    ] = None
    recall: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=1.0,
            help="Choose the kind by measurement: the lower bound of recall@10 must reach this value.",
            rich_help_panel=_GOALS,
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="With --recall: maximum memory of the first stage, such as 500MB.",
            rich_help_panel=_GOALS,
        ),
    ] = None
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="With --recall: maximum p99 latency of one search, such as 5ms.",
            rich_help_panel=_GOALS,
        ),
    ] = None
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="With --recall: write a page with the measurements. Replaces the file.",
            rich_help_panel=_GOALS,
        ),
    ] = None
    variant: Annotated[
        str | None,
        typer.Option(help="Variant to embed with (default: the chosen variant).", rich_help_panel=_COMPUTE),
    ] = None
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="Build inverted lists and float graphs on a GPU. Not yet tested on a GPU.",
            rich_help_panel=_COMPUTE,
        ),
    ] = False
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed the documents on a Ray cluster: HOST:PORT, auto or local, as for `encode --ray`.",
            rich_help_panel=_COMPUTE,
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            help="With --ray: device type of the cluster nodes, cpu, cuda, tensorrt or gpu. Queries are embedded on "
            "this machine.",
            rich_help_panel=_COMPUTE,
        ),
    ] = "cpu"
    as_json: JsonOption = False


@with_options(IndexCommandOptions)
def index(options: IndexCommandOptions) -> None:
    """Embed a corpus and write a search index. The index stores the bundle's fingerprint and works only with it."""
    from embedship.serve.indexing.goals import GoalsMissed

    build_options = _build_options(options)
    bundle = Bundle.open(options.bundle)
    if isinstance(options.out, Address):
        _fill_collection(bundle, options, build_options)
        return
    try:
        built = _build(bundle, options, build_options)
    except GoalsMissed as missed:
        index_goals.show(missed.choice, options.page, options.as_json, str(missed))
        raise typer.Exit(missed.exit_code) from None
    if built.manifest.choice:
        index_goals.show(built.manifest.choice, options.page, options.as_json)
    show(report(options.out, built), options.as_json)


def _build_options(options: IndexCommandOptions) -> IndexOptions:
    """Return the options of the index builder. Raises UsageError for options that exclude each other."""
    from embedship.serve.indexing.build import IndexOptions

    if sum(each is not None for each in (options.factory, options.kind, options.recall)) > 1:
        raise UsageError("--kind, --factory and --recall each decide which index is built: give only one of them")
    goals = index_goals.goals(options.recall, options.memory, options.latency)
    if options.page:
        atomic_file.check_writable(options.page, force=True)
    effort = SearchEffort(oversample=options.oversample, nprobe=options.nprobe, ef_search=options.ef_search)
    if goals and (effort.named or options.stage_dimension):
        raise UsageError(
            "--recall chooses the search effort and the dimension: remove --oversample, --nprobe, --ef-search and "
            "--stage-dimension"
        )
    if options.device != "cpu" and options.ray is None:
        raise UsageError("--device sets the device type of Ray nodes: also give --ray ADDRESS")
    return IndexOptions(
        kind=options.kind,
        with_title=options.with_title,
        effort=effort,
        store=options.store,
        stage_dimension=options.stage_dimension,
        factory=options.factory,
        gpu=options.gpu,
        goals=goals,
        queries=options.queries,
        chunking=chunking(options.chunk, options.overlap),
    )


def chunking(chunk: int | None, overlap: int | None) -> Chunking | None:
    """Return the chunking that --chunk and --overlap describe; None means one vector per document."""
    if chunk is None:
        if overlap is not None:
            raise UsageError("--overlap sets how many tokens chunks share: also give --chunk TOKENS")
        return None
    return Chunking(tokens=chunk, overlap=overlap or 0)


def _fill_collection(bundle: Bundle, options: IndexCommandOptions, build_options: IndexOptions) -> None:
    from embedship.serve.commands.index_milvus import fill

    unsupported = (
        *(options.source, options.queries, options.stage_dimension, options.factory, options.gpu, options.ray),
        *(build_options.chunking, build_options.goals, options.store is not RerankStore.INT8),
    )
    corpus = None if any(unsupported) else options.corpus
    fill(bundle, options.variant, corpus, options.out, build_options, options.as_json)


def _build(bundle: Bundle, options: IndexCommandOptions, build_options: IndexOptions) -> BuildResult:
    corpus, source = options.corpus, options.source
    if source is None and corpus is not None:
        return _embed_corpus(bundle, options, corpus, build_options)
    embeds = options.with_title or build_options.chunking or options.variant or options.ray
    if source is not None and corpus is None and not embeds:
        return _requantise(bundle, source, options.out, build_options)
    raise UsageError(
        "give either CORPUS.jsonl or --from INDEX. --from copies texts, chunks and vectors unchanged, so it cannot be "
        "combined with --chunk, --with-title, --variant or --ray"
    )


def _embed_corpus(
    bundle: Bundle, options: IndexCommandOptions, corpus: Path, build_options: IndexOptions
) -> BuildResult:
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.indexing.build import build

    variant = variant_choice.variant(bundle, options.variant).name
    with ExitStack() as stack:
        encoder = stack.enter_context(Encoder.open(bundle, variant))
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrong vectors must not build an index that others then use
        cluster = None
        if options.ray is not None:
            cluster = stack.enter_context(_cluster(options.ray, bundle, variant, options.device))
        progress = stack.enter_context(IndexProgress())
        return build(encoder, variant, corpus, options.out, build_options, progress.show, cluster)


def _cluster(address: str, bundle: Bundle, variant: str, device: str) -> AbstractContextManager[EncoderPool]:
    from embedship.serve.bulk.ray_session import ray_session

    return ray_session(address, bundle, variant, device)


def _requantise(bundle: Bundle, source: Path, out: Path, build_options: IndexOptions) -> BuildResult:
    from embedship.encoder import Encoder
    from embedship.serve.index import manifest
    from embedship.serve.indexing.requantise import requantise

    source_manifest = manifest.read(source)
    manifest.require_model(source, source_manifest, bundle)
    with ExitStack() as stack:
        # Queries are embedded with the index's own variant: another variant gives other vectors, and another recall.
        encoder = None
        if build_options.queries is not None:
            encoder = stack.enter_context(Encoder.open(bundle, source_manifest.variant))
        progress = stack.enter_context(IndexProgress())
        return requantise(bundle, encoder, source, out, build_options, progress.show)
