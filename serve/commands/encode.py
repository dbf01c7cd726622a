"""Command `encode`: writes the embeddings of a file of texts as shards. A stopped run can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedship import terminal, variant_choice
from embedship.bundle import Bundle, VectorCode
from embedship.commands.options import BundleArgument, JsonOption, with_options
from embedship.serve.bulk import run
from embedship.serve.bulk.formats import OutputFormat
from embedship.serve.bulk.manifest import EncodeManifest, EncodeOptions
from embedship.serve.bulk.shards import EncoderPool, LocalEncoderPool
from embedship.serve.bulk.source import InputColumns, open_source
from embedship.serve.progress import ProgressCounter

_INPUT, _OUTPUT, _COMPUTE = "Input", "Output", "Where it runs"


class EncodeReport(msgspec.Struct, frozen=True):
    """Output of `--json`. Speeds are those of this run, and None if an earlier run had finished all the work."""

    out: str
    fingerprint: str
    variant: str
    code: VectorCode
    dimension: int
    texts: int
    tokens: int
    truncated: int
    shards: int
    resumed_texts: int
    seconds: float
    texts_per_second: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCommandOptions:
    """Arguments and options of `embedship encode`."""

    bundle: BundleArgument
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl|IN.parquet",
            help='Texts: a local file or s3://BUCKET/KEY. JSON Lines with {"text"} and optionally {"id"} per line, or '
            "a Parquet file with these columns.",
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the vectors. If a stopped run left its files there, this run continues it.",
            rich_help_panel=_OUTPUT,
        ),
    ]
    text_column: Annotated[
        str, typer.Option(help="JSON key or Parquet column of the text.", rich_help_panel=_INPUT)
    ] = "text"
    id_column: Annotated[str, typer.Option(help="JSON key or Parquet column of the id.", rich_help_panel=_INPUT)] = "id"
    prompt_name: Annotated[
        str | None,
        typer.Option(
            help="Name of a prompt of the model (default: the model's prompt for documents).", rich_help_panel=_INPUT
        ),
    ] = None
    code: Annotated[
        VectorCode,
        typer.Option(
            help="Storage type of the vectors. Quantised types use the parameters stored in the bundle.",
            rich_help_panel=_OUTPUT,
        ),
    ] = VectorCode.FLOAT32
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Truncate vectors to this dimension and renormalise (Matryoshka).", rich_help_panel=_OUTPUT
        ),
    ] = None
    layout: Annotated[
        OutputFormat,
        typer.Option(
            "--format", help="File format of the shards. parquet also stores the ids.", rich_help_panel=_OUTPUT
        ),
    ] = OutputFormat.NPY
    shard_texts: Annotated[
        int,
        typer.Option(
            min=1, help="Texts per shard. An interrupted run loses at most the current shard.", rich_help_panel=_OUTPUT
        ),
    ] = 8192
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Start again: delete what an earlier run wrote to --out.", rich_help_panel=_OUTPUT
        ),
    ] = False
    variant: Annotated[
        str | None,
        typer.Option(help="Variant to encode with (default: the chosen variant).", rich_help_panel=_COMPUTE),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda:N, tensorrt:N or gpu:N.", rich_help_panel=_COMPUTE)] = "cpu"
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Encode on a Ray cluster, with one encoder per device. HOST:PORT; auto for the cluster that this "
            "machine belongs to; local to start a cluster here and stop it at the end.",
            rich_help_panel=_COMPUTE,
        ),
    ] = None
    as_json: JsonOption = False


@with_options(EncodeCommandOptions)
def encode(options: EncodeCommandOptions) -> None:
    """Encode a file of texts into a folder with shards of vectors, ids, and a manifest with the hash of every file.

    If the command is killed, run it again: it continues, and the resulting files are byte-identical.
    """
    bundle = Bundle.open(options.bundle)
    variant = variant_choice.variant(bundle, options.variant).name
    columns = InputColumns(options.text_column, options.id_column)
    texts = open_source(options.source, columns)
    encode_options = EncodeOptions(
        code=options.code,
        layout=options.layout,
        dimensions=options.dimensions,
        prompt_name=options.prompt_name,
        shard_texts=options.shard_texts,
    )
    with _open_encoders(bundle, variant, options.device, options.ray) as encoders, EncodeProgress() as progress:
        manifest = run.encode(
            encoders, texts, tuple(columns), options.out, encode_options, progress, force=options.force
        )
    report = _report(options.out, manifest, progress)
    if options.as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        terminal.output().print(_summary(report), soft_wrap=True)


@contextmanager
def _open_encoders(bundle: Bundle, variant: str, device: str, ray: str | None) -> Iterator[EncoderPool]:
    """Open encoders that have passed the golden-text check. Without it, a run of hours could give wrong vectors."""
    if ray is not None:
        from embedship.serve.bulk.ray_session import ray_session

        with ray_session(ray, bundle, variant, device) as cluster:
            terminal.messages().print(f"encoding on {cluster}")
            yield cluster
        return
    from embedship import golden, shapes
    from embedship.encoder import Encoder

    with Encoder.open(bundle, variant, device=device) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)
        yield LocalEncoderPool(encoder)


class EncodeProgress(ProgressCounter):
    """Progress bar on stderr, with the texts and tokens per second of this run."""

    def __init__(self) -> None:
        super().__init__()
        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=terminal.messages())
        self._task = self._progress.add_task("", total=None, rate="")

    def show(self) -> None:
        rate = ""
        if self.texts:
            rate = f"{self.texts / self.seconds:,.0f} texts/s, {self.tokens / self.seconds:,.0f} tokens/s"
        self._progress.update(self._task, total=self.total, completed=self.resumed + self.texts, rate=rate)

    def __enter__(self) -> EncodeProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _report(out: Path, manifest: EncodeManifest, progress: EncodeProgress) -> EncodeReport:
    plan = manifest.plan
    return EncodeReport(
        out=str(out),
        fingerprint=plan.fingerprint,
        variant=plan.variant,
        code=plan.code,
        dimension=plan.dimension,
        texts=plan.texts,
        tokens=manifest.tokens,
        truncated=manifest.cut,
        shards=len(manifest.shards),
        resumed_texts=progress.resumed,
        seconds=round(progress.seconds, 3),
        texts_per_second=round(progress.texts / progress.seconds, 1) if progress.texts else None,
        tokens_per_second=round(progress.tokens / progress.seconds, 1) if progress.texts else None,
    )


def _summary(report: EncodeReport) -> str:
    truncated = f" ({report.truncated:,} truncated to the model's maximum length)" if report.truncated else ""
    speed = (
        f"{report.texts_per_second:,.0f} texts/s, {report.tokens_per_second:,.0f} tokens/s"
        if report.texts_per_second and report.tokens_per_second
        else "nothing was left to do"
    )
    resumed = f"; {report.resumed_texts:,} texts were already encoded" if report.resumed_texts else ""
    return (
        f"{report.out}: {report.texts:,} texts{truncated}, {report.dimension} dimensions as {report.code}, "
        f"{report.shards} shards, variant {report.variant}; {speed}{resumed}"
    )
