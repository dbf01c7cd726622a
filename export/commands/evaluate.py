"""The command `embedship evaluate`: measure retrieval on the user's own corpus. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedship import engine, hardware, terminal, variant_choice
from embedship.bundle import Bundle, RetrievalResult
from embedship.commands.options import BundleArgument, JsonOption
from embedship.encoder import Encoder
from embedship.errors import GateError, UsageError
from embedship.export.gates import retrieval_metrics
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.gates.retrieval_metrics import PLAIN, STORAGES, EncodedDataset, VectorStorage
from embedship.tokens import Tokenizer

_STORAGES = {str(storage): storage for storage in STORAGES}


def evaluate(
    bundle: BundleArgument,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="corpus.jsonl (_id, text, title), queries.jsonl (_id, text), qrels.tsv."),
    ],
    variants: Annotated[
        str, typer.Option(help="Variants, comma-separated, or `all` (default: the one chosen for this machine).")
    ] = "",
    dimensions: Annotated[str, typer.Option(help="Matryoshka dimensions, comma-separated (default: all).")] = "",
    codes: Annotated[str, typer.Option(help=f"Vector codes: {', '.join(_STORAGES)} (default: all).")] = "",
    title: Annotated[
        bool, typer.Option("--with-title", help='Embed "title text" of each document, not the text alone.')
    ] = False,
    max_recall_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Exit with 3 if recall@10 is lower by more than this, e.g. 0.005, than that of the plain float32 "
            "variant, which reproduces the checkpoint. Applies to what --variants, --dimensions and --codes select; "
            "without the last two, to the full dimension in float32.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval by exact search for each variant, Matryoshka dimension and vector code.

    The figures equal those of sentence-transformers' InformationRetrievalEvaluator. accuracy@k is the hit rate.
    """
    from embedship.export.report.console import rows_table

    opened = Bundle.open(bundle)
    names = _names(opened, variants)
    wanted_dimensions = _dimensions(opened, dimensions)
    storages = _storages(codes)
    console = terminal.messages()
    pipeline = opened.manifest.pipeline
    data = RetrievalDataset.read(folder, title).drop_empty_texts(Tokenizer.open(opened), pipeline, console.print)
    plain = [opened.plain.name] if max_recall_drop is not None and opened.plain.name not in names else []
    rows: list[RetrievalResult] = []
    for name in [*plain, *names]:
        encoded = _encoded(opened, name, data)
        if name in names:
            rows += retrieval_metrics.grid(data, encoded, wanted_dimensions, storages, opened.manifest.codes)
        if name == opened.plain.name:
            baseline = retrieval_metrics.measure(data, encoded, PLAIN)
    if not rows:
        raise UsageError(
            "nothing to measure: binary codes need a dimension divisible by 8; name other --codes or --dimensions"
        )
    caption = f"{data.name}: {len(data.queries):,} queries, {len(data.documents):,} documents, exact search"
    if as_json:
        typer.echo(_json(opened, data, rows))
    else:
        terminal.output().print(rows_table(rows, caption))
    if max_recall_drop is not None:
        narrowed = bool(dimensions or codes)
        full = opened.manifest.pipeline.dimension
        results = [
            row for row in rows if narrowed or (row.dimension == full and retrieval_metrics.storage(row) == PLAIN)
        ]
        _judge(results, baseline, max_recall_drop)


def _names(bundle: Bundle, wanted: str) -> list[str]:
    """Return the names of variants that run here.

    `all` skips the others and prints a message. Raises if a named variant does not run here.
    """
    machine = hardware.machine()
    if wanted == "all":
        for variant in bundle.variants:
            if not machine.meets(variant.needs):
                terminal.messages().print(f"{variant.name} is left out: it needs {' or '.join(variant.needs)}")
        return [v.name for v in bundle.variants if machine.meets(v.needs)]
    selected = [bundle.variant(name) for name in _parts(wanted)] or [variant_choice.variant(bundle)]
    for variant in selected:
        engine.require(variant, machine)
    return [variant.name for variant in selected]


def _dimensions(bundle: Bundle, wanted: str) -> Sequence[int]:
    known = bundle.manifest.pipeline.dimensions
    for part in _parts(wanted):
        if part not in map(str, known):
            raise UsageError(f"--dimensions {part}: this model was trained for {', '.join(map(str, known))}")
    return [int(part) for part in _parts(wanted)] or known


def _storages(wanted: str) -> Sequence[VectorStorage]:
    for part in _parts(wanted):
        if part not in _STORAGES:
            raise UsageError(f"--codes {part}: there are {', '.join(_STORAGES)}")
    return [_STORAGES[part] for part in _parts(wanted)] or STORAGES


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _encoded(bundle: Bundle, name: str, data: RetrievalDataset) -> EncodedDataset:
    """Encode the corpus once per variant. Smaller dimensions and codes are derived from these vectors."""
    total = len(data.documents) + len(data.queries)
    with Encoder.open(bundle, name) as encoder, _bar(name, total) as advance:
        functions = retrieval_metrics.encode_functions(encoder, advance)
        return EncodedDataset.make(name, data, *functions, bundle.manifest.pipeline)


@contextmanager
def _bar(name: str, total: int) -> Iterator[retrieval_metrics.Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.messages()) as progress:
        task = progress.add_task(name, total=total)
        yield lambda count: progress.advance(task, count)


def _judge(rows: Sequence[RetrievalResult], baseline: RetrievalResult, budget: float) -> None:
    """Raise a GateError that names every row whose recall fell by more than `budget`."""
    before = baseline.metrics["recall@10"]
    failures = [
        f"{row.variant} {row.dimension} {retrieval_metrics.storage(row)} {row.metrics['recall@10']:.4f}"
        for row in rows
        if not retrieval_metrics.drop(baseline, row) <= budget
    ]
    if failures:
        raise GateError(
            f"recall@10 falls by more than {budget} from {baseline.variant}'s {before:.4f}: {'; '.join(failures)}. Use "
            "another variant, dimension or code, or raise --max-recall-drop if you accept the loss."
        )


def _json(bundle: Bundle, data: RetrievalDataset, rows: list[RetrievalResult]) -> str:
    answer: dict[str, Any] = {
        "bundle": str(bundle.folder),
        "fingerprint": bundle.fingerprint,
        "dataset": data.name,
        "queries": len(data.queries),
        "documents": len(data.documents),
        "measured": rows,
    }
    return msgspec.json.encode(answer).decode()
