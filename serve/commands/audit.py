"""Command `audit`: finds out whether an embeddings server returns the right vectors of a model, and what is wrong."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from embedship import terminal
from embedship.bundle import Precision
from embedship.commands.options import JsonOption, with_options
from embedship.errors import UsageError

if TYPE_CHECKING:
    from embedship.serve.audit.report import AuditReport


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCommandOptions:
    """Arguments and options of `embedship audit`."""

    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, such as http://127.0.0.1:8080.")]
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Bundle of the model that the server should serve.")
    ] = None
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="Checkpoint of the model instead of a bundle: a folder or a hub id. It is exported to a temporary "
            "bundle, which needs the extra [export].",
        ),
    ] = None
    api: Annotated[
        str | None,
        typer.Option("--api", help="openai, tei, infinity, cohere or ollama (default: the first that answers)."),
    ] = None
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model name to send (default: the only model that the server lists)."),
    ] = None
    prompt_name: Annotated[
        str | None,
        typer.Option(
            "--prompt-name",
            help="Prompt of the model that the server should put before plain texts (default: the model's default).",
        ),
    ] = None
    precision: Annotated[Precision, typer.Option("--precision", help="Lowest precision that counts as right.")] = (
        Precision.INT8
    )
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="API keys, one per line; the first one is sent (default: EMBEDSHIP_API_KEYS)."
        ),
    ] = None
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=600, help="Maximum seconds per request.")] = 30.0
    as_json: JsonOption = False


@with_options(AuditCommandOptions)
def audit(options: AuditCommandOptions) -> None:
    """Find out whether an embeddings server gives the right vectors of a model, and what is wrong if it does not.

    Sends ordinary and unusual texts, alone, in batches and in concurrent requests, at many lengths and with prompts.
    Compares the vectors with those that the model gives on this machine in float32. The server must have the API of
    OpenAI, text-embeddings-inference, Infinity, Cohere or Ollama.

    Exits 3 with the reasons if vectors are wrong, 1 if the server does not answer, 2 if it has none of these APIs.
    """
    report = _run(options)
    if options.as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(report)
    raise typer.Exit(0 if report.passed else 3)


def _run(options: AuditCommandOptions) -> AuditReport:
    from embedship.serve.audit.audit import ServerAudit
    from embedship.serve.audit.checkpoint import exported
    from embedship.serve.audit.reference import ReferenceModel
    from embedship.serve.audit.server import AuditedServer, ServerOptions

    if (options.bundle is None) == (options.checkpoint is None):
        raise UsageError("give the model that the server should serve: --bundle or --checkpoint, one of them")
    server_options = ServerOptions(options.url, options.api, options.model, options.api_key_file, options.timeout)
    if options.checkpoint is not None:
        terminal.messages().print("exporting the checkpoint to a temporary bundle, which takes about a minute")
    source = nullcontext(options.bundle) if options.bundle is not None else exported(str(options.checkpoint))
    with source as folder, ReferenceModel.open(folder) as reference:
        reference.model.prompt(options.prompt_name)  # an unknown name is an error before anything is sent
        server = AuditedServer.find(server_options, reference.bundle.manifest.source.name)
        terminal.messages().print(f"{server.client.url} has the API {server.api.name}, model {server.model}")
        return ServerAudit(reference, server, options.precision, options.prompt_name).run()


def _print(report: AuditReport) -> None:
    console = terminal.output()
    table = Table()
    for heading, justify in (("check", "left"), ("compared with", "left"), ("texts", "right"), ("wrong", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("cosine min", justify="right")
    table.add_column("mean", justify="right")
    for each in report.checks:
        wrong = Text(str(each.wrong), style="red") if each.wrong else str(each.wrong)
        texts = f"{each.texts} ({each.rejected} rejected)" if each.rejected else str(each.texts)
        table.add_row(each.name, each.against, texts, wrong, _shown(each.cosine_minimum), _shown(each.cosine_mean))
    console.print(table)
    for number, fault in enumerate(report.faults, 1):
        console.print(Text.assemble((f"{number}. {fault.kind}: ", "bold red"), fault.message), soft_wrap=True)
        for line in fault.evidence:
            console.print(f"   {line}", soft_wrap=True)
    for remark in report.remarks:
        console.print(f"note: {remark}", soft_wrap=True)
    console.print(_verdict(report), soft_wrap=True)


def _verdict(report: AuditReport) -> str:
    sent = f"{report.requests} requests, {report.seconds:.1f} s"
    if report.passed:
        return f"right: {report.url} gives the vectors of {report.reference} ({report.api} API; {sent})"
    count = f"{len(report.faults)} fault" + ("s" if len(report.faults) > 1 else "")
    return f"wrong: {report.url} does not give the vectors of {report.reference}: {count} ({report.api} API; {sent})"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
