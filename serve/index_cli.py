"""The verb `index`: a bundle and a corpus become a search index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from embedship import choice as choices
from embedship import whole
from embedship.bundle import Bundle
from embedship.errors import UsageError
from embedship.serve.index import Kind
from embedship.serve.index.effort import LIMITS, Effort
from embedship.serve.index.manifest import SAMPLED, Choice, Goals, Recall, frontier
from embedship.serve.index.recipe import Store

if TYPE_CHECKING:
    from embedship.serve.index.build import Built, Step


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    index: str
    fingerprint: str
    variant: str
    kind: Kind
    factory: str
    stage_dimension: int
    store: Store | None
    effort: Effort
    documents: int
    dimension: int
    truncated: int
    disk_bytes: int
    hot_bytes_per_vector: float
    texts_per_second: float
    recall: Recall | None
    choice: Choice | None


def index(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    corpus: Annotated[
        Path,
        typer.Argument(
            metavar="CORPUS.jsonl",
            help='A document a line: {"id", "text"}, optionally "title" and "metadata". BEIR\'s "_id" will do for '
            '"id"; other keys are kept as metadata.',
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the index goes. An index that lies there is replaced at the end.")],
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="flat is exact; what the others find is ranked again by codes on disk: docs/search.md. "
            "Default: flat below 50,000 documents, pq from there on."
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to embed with (default: the chosen one).")] = None,
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
        int | None, typer.Option(min=LIMITS["nprobe"][0], max=LIMITS["nprobe"][1], help="ivf-rabitq: lists to scan.")
    ] = None,
    ef_search: Annotated[
        int | None,
        typer.Option(min=LIMITS["ef_search"][0], max=LIMITS["ef_search"][1], help="hnsw: nodes to keep open."),
    ] = None,
    store: Annotated[
        Store, typer.Option(help="What ranks the candidates again, from disk: int8 codes or the float16 vectors.")
    ] = Store.INT8,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed a corpus and write a search index that is bound to the bundle's fingerprint."""
    from embedship import golden
    from embedship.encoder import Encoder
    from embedship.serve.index.build import Wishes, build
    from embedship.serve.index.goals import GoalsMissed

    opened = Bundle.open(bundle)
    chosen = choices.variant(opened, variant).name
    if sum(each is not None for each in (factory, kind, recall)) > 1:
        raise UsageError("--kind, --factory and --recall each decide what is built: give one of them")
    goals = _goals(recall, memory, latency)
    if plot:
        whole.refuse(plot, force=True)
    effort = Effort(oversample=oversample, nprobe=nprobe, ef_search=ef_search)
    wishes = Wishes(kind, with_title, effort, store, stage_dimension, factory, goals, queries)
    with Encoder.open(opened, chosen) as encoder:
        golden.check(encoder)  # a machine that computes wrongly must not fill an index that others then trust
        try:
            with Bar() as bar:
                built = build(encoder, chosen, corpus, out, wishes, bar.show)
        except GoalsMissed as missed:
            _frontier(missed.choice, plot, as_json, Missed(str(missed), missed.exit_code, missed.choice))
            raise typer.Exit(missed.exit_code) from None
    report = _report(out, built)
    if report.choice:
        _frontier(report.choice, plot, as_json, None)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        Console(highlight=False).print(_table(report))


class Missed(msgspec.Struct, frozen=True):
    """What `--json` prints where goals were missed: no index was written."""

    error: str
    exit_code: int
    choice: Choice


def _goals(recall: float | None, memory: str | None, latency: str | None) -> Goals | None:
    if recall is None:
        if memory or latency:
            raise UsageError("--memory and --latency need --recall beside them: without it anything fits")
        return None
    return Goals(
        recall=recall,
        memory_bytes=None if memory is None else int(_amount(memory, _BYTES, "--memory", "500MB")),
        latency_seconds=None if latency is None else _amount(latency, _SECONDS, "--latency", "5ms"),
    )


_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _amount(text: str, units: dict[str, float], option: str, example: str) -> float:
    """Raises UsageError for what is no positive number with one of these units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if not found or found[2] not in units or not float(found[1]):
        raise UsageError(f"{option} {text!r}: write it as {example}, in {', '.join(units)}")
    return float(found[1]) * units[found[2]]


def _frontier(choice: Choice, plot: Path | None, as_json: bool, missed: Missed | None) -> None:
    """The table of what was measured, unless machines read; the page, if it was asked for."""
    if plot:
        from embedship.serve.index_page.render import html

        whole.write(plot, html(choice, missed.error if missed else None).encode())
    if as_json and missed:
        typer.echo(msgspec.json.encode(missed).decode())
    if not as_json:
        Console(highlight=False).print(_measured(choice))
    if missed:
        Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]error:[/]", missed.error)


def _measured(choice: Choice) -> Table:
    """Those that no other beats in recall, speed and memory at once, and the chosen one."""
    asked = "documents left out of it" if choice.source == SAMPLED else f"queries of {choice.source}"
    table = Table(title=f"measured over {choice.documents:,} documents with {choice.queries:,} {asked}, one thread")
    for heading in ("", "index", "effort", "recall@10", "95%", "queries/s", "p99 ms", "bytes/vector", "build s"):
        table.add_column(heading, justify="left" if heading in ("", "index", "effort") else "right")
    for at in frontier(choice):
        each = choice.measured[at]
        table.add_row(
            ">" if at == choice.chosen else "",
            str(each.recipe),
            str(each.effort),
            f"{each.recall.mean:.4f}",
            f"{each.recall.low:.4f}..{each.recall.high:.4f}",
            f"{each.queries_per_second:,.0f}",
            f"{each.p99_seconds * 1e3:.2f}",
            f"{each.hot_bytes:,.1f}",
            f"{each.build_seconds:.1f}",
        )
    return table


class Bar:
    """Progress on stderr: one line a step, with texts a second."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
        rate = TextColumn("{task.fields[rate]}")
        self._progress = Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True))
        self._tasks: dict[Step, TaskID] = {}

    def show(self, step: Step, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=None, rate="")
        task = self._progress.tasks[self._tasks[step]]
        rate = f"{done / task.elapsed:,.0f} texts/s" if 0 < done < total and task.elapsed else task.fields["rate"]
        self._progress.update(task.id, completed=done, total=total or None, rate=rate)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _report(out: Path, built: Built) -> Report:
    manifest = built.manifest
    return Report(
        index=str(out),
        fingerprint=manifest.fingerprint,
        variant=manifest.variant,
        kind=manifest.kind,
        factory=manifest.recipe.factory,
        stage_dimension=manifest.recipe.dimension,
        store=manifest.recipe.store,
        effort=manifest.effort,
        documents=manifest.size,
        dimension=manifest.dimension,
        truncated=manifest.truncated,
        disk_bytes=sum(file.size for file in manifest.files.values()),
        hot_bytes_per_vector=manifest.hot_bytes,
        texts_per_second=round(manifest.size / built.seconds, 1),
        recall=manifest.recall,
        choice=manifest.choice,
    )


def _table(report: Report) -> Table:
    table = Table(title=f"{report.index}, bound to model {report.fingerprint[:12]}", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for row in (
        ("documents", f"{report.documents:,}"),
        ("longer than the model reads, cut", f"{report.truncated:,}"),
        ("kind", f"{report.kind} ({report.factory}), {report.stage_dimension} dimensions"),
        ("ranked again by", report.store or "nothing, it is exact"),
        ("effort", str(report.effort)),
        ("variant", report.variant),
        ("on disk", f"{report.disk_bytes / 1e6:,.1f} MB"),
        ("in memory", f"{report.hot_bytes_per_vector:,.1f} bytes a vector"),
        ("embedded at", f"{report.texts_per_second:,.0f} texts/s"),
        ("recall@10 against exact search", _recall(report.recall)),
    ):
        table.add_row(*row)
    return table


def _recall(recall: Recall | None) -> str:
    if recall is None:
        return "nothing to compare"
    asked = "documents as queries" if recall.source == SAMPLED else f"of {recall.source}"
    return f"{recall.ratio:.4f} ({recall.queries:,} {asked})"
