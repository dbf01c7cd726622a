"""Command `compare`: decides whether a new bundle or server may replace the one in use."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from embedship import terminal
from embedship.commands.options import JsonOption, with_options
from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.serve.client import ServerClient
from embedship.serve.compare.gates import RECALL, CompareThresholds
from embedship.serve.compare.questions import QuestionSet

if TYPE_CHECKING:
    from embedship.serve.compare.report import CompareReport, ComparisonResult

_URL_SCHEMES = ("http://", "https://")
# Options that only one of the two kinds of comparison reads. It is an error to give them for the other kind.
_BUNDLE_OPTIONS = {
    *("index", "new_index", "corpus", "with_title", "qrels", "variant", "new_variant"),
    *("min_speed", "max_memory", "max_size", "rounds"),
}
_SERVER_OPTIONS = {"api_key_file", "max_latency", "max_failures", "timeout"}

_BUNDLES, _SERVERS, _THRESHOLDS = "Bundles only", "Servers only", "Thresholds"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareCommandOptions:
    """Arguments and options of `embedship compare`, and the typer context, which knows which of them were given."""

    context: typer.Context
    old: Annotated[str, typer.Argument(metavar="OLD", help="Bundle in use, or the address of its server.")]
    new: Annotated[str, typer.Argument(metavar="NEW", help="Bundle to replace it, or the address of its server.")]
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES.jsonl",
            help='Real queries, {"text"} per line, and optionally "relevant" (ids of the relevant documents).',
        ),
    ]
    other_model: Annotated[
        bool,
        typer.Option("--other-model", help="NEW may be another model. Rankings are compared instead of vectors."),
    ] = False
    index: Annotated[
        Path | None,
        typer.Option(
            "--index", help="Index of OLD. Its exact search is the reference for recall@10.", rich_help_panel=_BUNDLES
        ),
    ] = None
    new_index: Annotated[
        Path | None,
        typer.Option(
            "--new-index", help="Index of NEW (default: NEW's queries search OLD's index).", rich_help_panel=_BUNDLES
        ),
    ] = None
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            help="Documents that both bundles encode and search, instead of an index.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None
    with_title: Annotated[
        bool,
        typer.Option(
            "--with-title", help="With --corpus: encode the title and the text of documents.", rich_help_panel=_BUNDLES
        ),
    ] = False
    qrels: Annotated[
        Path | None,
        typer.Option(
            "--qrels",
            help="Relevance judgements in BEIR format, for queries with an `id` or `_id`.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Variant of OLD (default: the chosen variant).", rich_help_panel=_BUNDLES),
    ] = None
    new_variant: Annotated[
        str | None,
        typer.Option("--new-variant", help="Variant of NEW (default: the chosen variant).", rich_help_panel=_BUNDLES),
    ] = None
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Rounds of the speed measurement. 0 measures neither speed nor memory.",
            rich_help_panel=_BUNDLES,
        ),
    ] = 5
    min_queries: Annotated[
        int,
        typer.Option(
            min=2,
            help="Minimum number of distinct queries, and of labelled queries if there are labels.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = 100
    min_recall: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum recall@10 of NEW against OLD (lower end of the 95% interval; default: "
            f"{RECALL:g}, or none for another model).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_recall_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Maximum drop of recall@10 by labels (lower end of the 95% interval).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = 0.02
    max_ndcg_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Maximum drop of nDCG@10 by labels (lower end of the 95% interval).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = 0.02
    min_speed: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Bundles: minimum texts per second, as a multiple of OLD's (default: only reported).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Bundles: maximum memory, as a multiple of OLD's (default: only reported).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_size: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Bundles: maximum size of the files, as a multiple of OLD's (default: only reported).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_latency: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Servers: maximum median latency, as a multiple of OLD's (default: only reported).",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_failures: Annotated[
        int,
        typer.Option(
            min=0,
            help="Servers: maximum number of failed requests of NEW beyond OLD's.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = 0
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="API keys, one per line; the first one is sent (default: EMBEDSHIP_API_KEYS).",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Maximum seconds per request.", rich_help_panel=_SERVERS)
    ] = 30.0
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with figures. Replaces the file."),
    ] = None
    as_json: JsonOption = False


@with_options(CompareCommandOptions)
def compare(options: CompareCommandOptions) -> None:
    """Compare a new bundle, or its server, with the one in use, and decide whether it may replace it.

    Exits 0 if NEW passes every gate, and 3 with the reasons if it fails one. Exits 4 if a bundle is damaged or an index
    was built with another model.
    """
    if options.report:
        atomic_file.check_writable(options.report, force=True)
    are_servers = [each.startswith(_URL_SCHEMES) for each in (options.old, options.new)]
    questions = QuestionSet.read(options.queries)
    if all(are_servers):
        _reject_options(options.context, _BUNDLE_OPTIONS, "two bundles, but OLD and NEW are servers")
        result = _compare_servers(options, questions)
    elif any(are_servers):
        raise UsageError("one of OLD and NEW is a folder and the other an address: give two bundles or two servers")
    else:
        _reject_options(options.context, _SERVER_OPTIONS, "two servers, but OLD and NEW are bundles")
        result = _compare_bundles(options, questions)
    if options.report:
        _write_page(options.report, result)
    if options.as_json:
        typer.echo(msgspec.json.encode(result.report).decode())
    else:
        _print(result.report)
    raise typer.Exit(0 if result.report.passed else 3)


def _reject_options(context: typer.Context, names: Set[str], purpose: str) -> None:
    for name in sorted(names):
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} is for {purpose}: remove it")


def _thresholds(options: CompareCommandOptions) -> CompareThresholds:
    return CompareThresholds(
        other_model=options.other_model,
        min_queries=options.min_queries,
        min_recall=options.min_recall,
        max_recall_drop=options.max_recall_drop,
        max_ndcg_drop=options.max_ndcg_drop,
        min_speed=options.min_speed,
        max_memory=options.max_memory,
        max_size=options.max_size,
        max_latency=options.max_latency,
        max_failures=options.max_failures,
    )


def _compare_servers(options: CompareCommandOptions, questions: QuestionSet) -> ComparisonResult:
    from embedship.serve.compare.live import compare as compare_servers

    old, new = (ServerClient(url, options.api_key_file, options.timeout) for url in (options.old, options.new))
    return compare_servers(old, new, questions, _thresholds(options))


def _compare_bundles(options: CompareCommandOptions, questions: QuestionSet) -> ComparisonResult:
    from embedship.serve.compare.bundles import CompareOptions
    from embedship.serve.compare.bundles import compare as compare_bundles
    from embedship.serve.compare.sources import DocumentSources

    compare_options = CompareOptions(
        sources=DocumentSources(options.index, options.new_index, options.corpus, options.with_title),
        qrels=options.qrels,
        variant=options.variant,
        new_variant=options.new_variant,
        rounds=options.rounds,
    )
    return compare_bundles(Path(options.old), Path(options.new), questions, _thresholds(options), compare_options)


def _write_page(path: Path, result: ComparisonResult) -> None:
    from embedship.serve.compare.report_page import html

    atomic_file.write(path, html(result).encode())


def _print(report: CompareReport) -> None:
    console = terminal.output()
    for sentence in report.verdict:
        console.print(sentence, soft_wrap=True)
    table = Table()
    for heading in ("gate", "result", "measured"):
        table.add_column(heading)
    results: dict[bool | None, str | Text] = {True: "passed", False: Text("failed", style="red"), None: "reported"}
    for gate in report.gates:
        table.add_row(gate.name, results[gate.passed], gate.reason)
    console.print(table)
