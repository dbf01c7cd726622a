"""The verb `compare`: may this new bundle, or server, take the old one's place?"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.serve.client import ServerClient
from embedship.serve.compare.gates import RECALL, CompareThresholds
from embedship.serve.compare.questions import QuestionSet

if TYPE_CHECKING:
    from embedship.serve.compare.report import CompareReport, ComparisonResult

_SERVERS = ("http://", "https://")
# What only one of the two ways to compare looks at: it would be a mistake to give it for the other.
_OF_BUNDLES = {
    *("index", "new_index", "corpus", "with_title", "qrels", "variant", "new_variant"),
    *("min_speed", "max_memory", "max_size", "rounds"),
}
_OF_SERVERS = {"api_key_file", "max_latency", "max_failures", "timeout"}


def compare(
    context: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The bundle in use; or the address of its server.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The one to replace it; or the address of its server.")],
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES.jsonl",
            help='Real queries, {"text"} a line; "relevant" (ids of documents) where the answers are known.',
        ),
    ],
    index: Annotated[
        Path | None, typer.Option("--index", help="OLD's index: recall@10 against its exact search.")
    ] = None,
    new_index: Annotated[
        Path | None, typer.Option("--new-index", help="NEW's own index (default: NEW's queries search OLD's).")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Instead of an index: documents that both encode and search.")
    ] = None,
    with_title: Annotated[bool, typer.Option("--with-title", help="Of a corpus: encode title and text.")] = False,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judgements in BEIR's layout, of queries with an `id` or `_id`.")
    ] = None,
    variant: Annotated[str | None, typer.Option("--variant", help="OLD's variant (default: the chosen).")] = None,
    new_variant: Annotated[
        str | None, typer.Option("--new-variant", help="NEW's variant (default: the chosen).")
    ] = None,
    other_model: Annotated[
        bool, typer.Option("--other-model", help="NEW may be another model: rankings decide, not vectors.")
    ] = False,
    min_queries: Annotated[int, typer.Option(min=2, help="Distinct queries, and labelled ones, to decide by.")] = 100,
    min_recall: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"Least recall@10 of NEW against OLD, by the lower end of its 95% interval (default: {RECALL:g}; of "
            "another model none).",
        ),
    ] = None,
    max_recall_drop: Annotated[
        float, typer.Option(min=0, max=1, help="How far recall@10 by labels may fall, by the lower end.")
    ] = 0.02,
    max_ndcg_drop: Annotated[
        float, typer.Option(min=0, max=1, help="How far nDCG@10 by labels may fall, by the lower end.")
    ] = 0.02,
    min_speed: Annotated[
        float | None, typer.Option(min=0, help="Least texts a second, as a multiple of OLD's (default: shown only).")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(min=0, help="Most memory, as a multiple of OLD's (default: shown only).")
    ] = None,
    max_size: Annotated[
        float | None, typer.Option(min=0, help="Most bytes of files, as a multiple of OLD's (default: shown only).")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0, help="Servers: most median latency, as a multiple of OLD's (default: shown).")
    ] = None,
    max_failures: Annotated[int, typer.Option(min=0, help="Servers: so many more requests than OLD's may fail.")] = 0,
    rounds: Annotated[
        int, typer.Option(min=0, max=100, help="Bundles: rounds of the speed measurement; 0: neither speed nor memory.")
    ] = 5,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="Servers: API keys, one a line; the first is sent (default: EMBEDSHIP_API_KEYS)."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Servers: seconds an answer may take.")] = 30.0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page with figures; replaces the file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Hold a new bundle, or its server, against the one it is to replace: may it?

    Exits 0 when it passes every gate and 3 when it does not, with a sentence for each; 4 when a bundle is damaged or an
    index is another model's.
    """
    if report:
        atomic_file.check_writable(report, force=True)
    limits = CompareThresholds(
        other_model=other_model,
        min_queries=min_queries,
        min_recall=min_recall,
        max_recall_drop=max_recall_drop,
        max_ndcg_drop=max_ndcg_drop,
        min_speed=min_speed,
        max_memory=max_memory,
        max_size=max_size,
        max_latency=max_latency,
        max_failures=max_failures,
    )
    servers = [each.startswith(_SERVERS) for each in (old, new)]
    questions = QuestionSet.read(queries)
    if all(servers):
        _refuse(context, _OF_BUNDLES, "two bundles, and these are servers")
        found = _live(old, new, questions, limits, api_key_file, timeout)
    elif any(servers):
        raise UsageError("one is a folder and the other an address: compare two bundles, or two servers")
    else:
        _refuse(context, _OF_SERVERS, "two servers, and these are bundles")
        from embedship.serve.compare.bundles import CompareOptions
        from embedship.serve.compare.bundles import compare as bundles
        from embedship.serve.compare.sources import DocumentSources

        where = DocumentSources(index, new_index, corpus, with_title)
        wishes = CompareOptions(where=where, qrels=qrels, variant=variant, new_variant=new_variant, rounds=rounds)
        found = bundles(Path(old), Path(new), questions, limits, wishes)
    if report:
        _write(report, found)
    if as_json:
        typer.echo(msgspec.json.encode(found.report).decode())
    else:
        _tell(found.report)
    raise typer.Exit(0 if found.report.passed else 3)


def _refuse(context: typer.Context, names: Set[str], what: str) -> None:
    for name in sorted(names):
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} is for {what}")


def _live(
    old: str, new: str, questions: QuestionSet, limits: CompareThresholds, keys: Path | None, timeout: float
) -> ComparisonResult:
    from embedship.serve.compare.live import compare as live

    return live(ServerClient(old, keys, timeout), ServerClient(new, keys, timeout), questions, limits)


def _write(path: Path, found: ComparisonResult) -> None:
    from embedship.serve.compare.report_page import html

    atomic_file.write(path, html(found).encode())


def _tell(report: CompareReport) -> None:
    console = Console(highlight=False)
    for sentence in report.verdict:
        console.print(sentence, markup=False, soft_wrap=True)
    table = Table()
    for heading in ("gate", "", "what was found"):
        table.add_column(heading)
    says = {True: "passed", False: "[red]failed[/]", None: "shown"}
    for gate in report.gates:
        table.add_row(gate.name, says[gate.passed], gate.reason)
    console.print(table)
