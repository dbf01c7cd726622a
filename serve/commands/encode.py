"""The verb `encode`: a file of texts becomes shards of vectors, however often the work is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedship import variant_choice
from embedship.bundle import Bundle, VectorCode
from embedship.serve.bulk import run
from embedship.serve.bulk.formats import OutputFormat
from embedship.serve.bulk.manifest import EncodeManifest, EncodeOptions
from embedship.serve.bulk.shards import EncoderPool, LocalEncoderPool
from embedship.serve.bulk.source import InputColumns, open_source
from embedship.serve.progress import ProgressCounter


class EncodeReport(msgspec.Struct, frozen=True):
    """What `--json` prints. Speeds are of this run alone, None where it found all done."""

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


def encode(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl|IN.parquet",
            help='{"text"} and if known {"id"} a line, or columns of Parquet; a file, or s3://BUCKET/KEY.',
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the vectors; a run that was stopped there goes on.")],
    code: Annotated[
        VectorCode, typer.Option(help="How vectors are stored, by the bundle's frozen codes.")
    ] = VectorCode.FLOAT32,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Cut to so many and renormalise (Matryoshka).")] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="A prompt of the model (default: the one it gives documents).")
    ] = None,
    layout: Annotated[
        OutputFormat, typer.Option("--format", help="Of the shards; parquet holds the ids, too.")
    ] = OutputFormat.NPY,
    text_column: Annotated[str, typer.Option(help="Key or column of the text.")] = "text",
    id_column: Annotated[str, typer.Option(help="Key or column of the id.")] = "id",
    shard_texts: Annotated[int, typer.Option(min=1, help="Texts a shard: what a kill costs at most.")] = 8192,
    variant: Annotated[str | None, typer.Option(help="The variant to embed with (default: the chosen one).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda:N, tensorrt:N or gpu:N.")] = "cpu",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Encode on a Ray cluster, an encoder a device: HOST:PORT, auto for the one this machine belongs to, "
            "local for one that is started here and ended.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin anew: delete what an earlier run wrote there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Encode a file of texts into a folder: shards of vectors, ids, and a manifest with their hashes.

    Killed at any point, the same command goes on and ends with the same bytes.
    """
    opened = Bundle.open(bundle)
    columns = InputColumns(text_column, id_column)
    texts = open_source(source, columns)
    wishes = EncodeOptions(
        code=code, layout=layout, dimensions=dimensions, prompt_name=prompt_name, shard_texts=shard_texts
    )
    with (
        _encoders(opened, variant_choice.variant(opened, variant).name, device, ray) as encoders,
        EncodeProgress() as meter,
    ):
        manifest = run.encode(encoders, texts, tuple(columns), out, wishes, meter, force=force)
    report = _report(out, manifest, meter)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        Console(highlight=False).print(_sentence(report), soft_wrap=True)


@contextmanager
def _encoders(bundle: Bundle, variant: str, device: str, ray: str | None) -> Iterator[EncoderPool]:
    """They have passed the golden texts: hours of wrong vectors would be found by nobody."""
    if ray is not None:
        from embedship.serve.bulk.ray_session import ray_session

        with ray_session(ray, bundle, variant, device) as cluster:
            Console(stderr=True, highlight=False).print(f"encoding on {cluster}")
            yield cluster
        return
    from embedship import golden, shapes
    from embedship.encoder import Encoder

    with Encoder.open(bundle, variant, device=device) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)
        yield LocalEncoderPool(encoder)


class EncodeProgress(ProgressCounter):
    """Progress on stderr, with texts and tokens a second of this run."""

    def __init__(self) -> None:
        super().__init__()
        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None, rate="")

    def show(self) -> None:
        rate = (
            f"{self.texts / self.seconds:,.0f} texts/s, {self.tokens / self.seconds:,.0f} tokens/s"
            if self.texts
            else ""
        )
        self._progress.update(self._task, total=self.total, completed=self.resumed + self.texts, rate=rate)

    def __enter__(self) -> EncodeProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _report(out: Path, manifest: EncodeManifest, meter: EncodeProgress) -> EncodeReport:
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
        resumed_texts=meter.resumed,
        seconds=round(meter.seconds, 3),
        texts_per_second=round(meter.texts / meter.seconds, 1) if meter.texts else None,
        tokens_per_second=round(meter.tokens / meter.seconds, 1) if meter.texts else None,
    )


def _sentence(report: EncodeReport) -> str:
    cut = f", {report.truncated:,} of them longer than the model reads and cut" if report.truncated else ""
    speed = (
        f"{report.texts_per_second:,.0f} texts/s, {report.tokens_per_second:,.0f} tokens/s"
        if report.texts_per_second and report.tokens_per_second
        else "nothing was left to do"
    )
    went_on = f"; {report.resumed_texts:,} were there already" if report.resumed_texts else ""
    return (
        f"{report.out}: {report.texts:,} texts{cut}, {report.dimension} dimensions in {report.code}, "
        f"{report.shards} shards, by {report.variant}; {speed}{went_on}"
    )
