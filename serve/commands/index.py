"""The verb `index`: a bundle and a corpus become a search index."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedship import variant_choice as choices
from embedship.bundle import Bundle
from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.serve.commands import index_goals as asked
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


def index(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    *,
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS.jsonl",
            help='A document a line: {"id", "text"}, optionally "title" and "metadata". BEIR\'s "_id" will do for '
            '"id"; other keys are kept as metadata.',
        ),
    ] = None,
    out: Annotated[
        Any,
        typer.Option(
            parser=parse_location,
            metavar="INDEX",
            help="Where the index goes: a folder, and an index that lies there is replaced at the end; or a collection "
            "of Milvus that is not there yet, milvus://HOST:PORT/COLLECTION.",
        ),
    ],
    kind: Annotated[
        IndexKind | None,
        typer.Option(
            help="flat is exact; what the others find is ranked again by codes on disk: docs/search.md. "
            "Default: flat below 50,000 documents, pq from there on."
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to embed with (default: the chosen one).")] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            help="Cut documents into chunks of at most so many tokens, prompt and special tokens included (default: a "
            "vector a document; what the model does not read of it is cut off)."
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Tokens that two neighbouring chunks may share (default: 0).")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="INDEX",
            help="Take documents and vectors from this index of the same model, and embed nothing: for another --kind.",
        ),
    ] = None,
    with_title: Annotated[bool, typer.Option("--with-title", help="Embed title and text, not the text alone.")] = False,
    queries: Annotated[
        Path | None,
        typer.Option(help='Measure recall with these questions, {"text"} a line (default: with sampled documents).'),
    ] = None,
    oversample: Annotated[
        int | None,
        typer.Option(
            min=LIMITS["oversample"][0],
            max=LIMITS["oversample"][1],
            help="Candidates to rank again for each hit asked for, below ten hits as for ten.",
        ),
    ] = None,
    nprobe: Annotated[
        int | None, typer.Option(min=LIMITS["nprobe"][0], max=LIMITS["nprobe"][1], help="ivf: lists to scan.")
    ] = None,
    ef_search: Annotated[
        int | None,
        typer.Option(min=LIMITS["ef_search"][0], max=LIMITS["ef_search"][1], help="hnsw: nodes to keep open."),
    ] = None,
    store: Annotated[
        RerankStore, typer.Option(help="What ranks the candidates again, from disk: int8 codes or the float16 vectors.")
    ] = RerankStore.INT8,
    stage_dimension: Annotated[
        int | None,
        typer.Option(help="The Matryoshka dimension that candidates are found with (default: the model's own)."),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            help='A first stage in FAISS\'s own language, such as "OPQ48,IVF1024,PQ48x4fs", instead of --kind.'
        ),
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Build lists and float graphs on a GPU; no GPU has run this yet.")
    ] = False,
    recall: Annotated[
        float | None,
        typer.Option(min=0.5, max=1.0, help="Build by goal: recall@10 that the index must have, by its lower bound."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="With --recall: memory of the first stage at most, such as 500MB."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --recall: p99 of one search at most, such as 5ms.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="With --recall: draw what was measured; replaces the file.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed the documents on a Ray cluster, as `encode --ray` does: HOST:PORT, auto, local.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="With --ray: what its nodes embed on, cpu, cuda, tensorrt or gpu; queries stay here.")
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed a corpus and write a search index that is bound to the bundle's fingerprint."""
    from embedship.serve.indexing.build import IndexOptions
    from embedship.serve.indexing.goals import GoalsMissed

    if sum(each is not None for each in (factory, kind, recall)) > 1:
        raise UsageError("--kind, --factory and --recall each decide what is built: give one of them")
    wanted = asked.goals(recall, memory, latency)
    if plot:
        atomic_file.check_writable(plot, force=True)
    effort = SearchEffort(oversample=oversample, nprobe=nprobe, ef_search=ef_search)
    if wanted and (effort.named or stage_dimension):
        raise UsageError("--recall chooses the effort and the dimension: leave --oversample and its like out")
    if device != "cpu" and ray is None:
        raise UsageError("--device is what the nodes of --ray embed on: give --ray ADDRESS, too")
    cut = chunking(chunk, overlap)
    wishes = IndexOptions(kind, with_title, effort, store, stage_dimension, factory, gpu, wanted, queries, cut)
    opened = Bundle.open(bundle)
    if isinstance(out, Address):
        from embedship.serve.commands.index_milvus import fill

        others = (source, cut, queries, stage_dimension, factory, gpu, wanted, ray, store is not RerankStore.INT8)
        fill(opened, variant, None if any(others) else corpus, out, wishes, as_json)
        return
    try:
        if source is None and corpus is not None:
            built = _embedded(opened, variant, corpus, out, wishes, ray, device)
        elif source is not None and corpus is None and not (with_title or cut or variant or ray):
            built = _requantised(opened, source, out, wishes)
        else:
            raise UsageError(
                "give either CORPUS.jsonl, or --from INDEX, whose texts, chunks and vectors stay as they are: without "
                "--chunk, --with-title, --variant and --ray"
            )
    except GoalsMissed as missed:
        asked.show(missed.choice, plot, as_json, str(missed))
        raise typer.Exit(missed.exit_code) from None
    if built.manifest.choice:
        asked.show(built.manifest.choice, plot, as_json)
    show(report(out, built), as_json)


def chunking(chunk: int | None, overlap: int | None) -> Chunking | None:
    if chunk is None:
        if overlap is not None:
            raise UsageError("--overlap is what chunks share: give --chunk TOKENS, too")
        return None
    return Chunking(tokens=chunk, overlap=overlap or 0)


def _embedded(
    bundle: Bundle, variant: str | None, corpus: Path, out: Path, wishes: IndexOptions, ray: str | None, device: str
) -> BuildResult:
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.indexing.build import build

    chosen = choices.variant(bundle, variant).name
    with ExitStack() as stack:
        encoder = stack.enter_context(Encoder.open(bundle, chosen))
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrongly must not fill an index that others then trust
        cluster = None if ray is None else stack.enter_context(_cluster(ray, bundle, chosen, device))
        bar = stack.enter_context(IndexProgress())
        return build(encoder, chosen, corpus, out, wishes, bar.show, cluster)


def _cluster(address: str, bundle: Bundle, variant: str, device: str) -> AbstractContextManager[EncoderPool]:
    from embedship.serve.bulk.ray_session import ray_session

    return ray_session(address, bundle, variant, device)


def _requantised(bundle: Bundle, source: Path, out: Path, wishes: IndexOptions) -> BuildResult:
    from embedship.encoder import Encoder
    from embedship.serve.index import manifest
    from embedship.serve.indexing.requantise import requantise

    found = manifest.read(source)
    manifest.require_model(source, found, bundle)
    with ExitStack() as stack:
        # Recall is that of this index: another variant gives other vectors of the questions.
        encoder = None if wishes.queries is None else stack.enter_context(Encoder.open(bundle, found.variant))
        bar = stack.enter_context(IndexProgress())
        return requantise(bundle, encoder, source, out, wishes, bar.show)
