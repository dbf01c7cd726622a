"""The command `embedship export`. Heavy packages are imported only after the options have been read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedship import terminal
from embedship.bundle import Bundle, Objective, Task
from embedship.commands.options import JsonOption, with_options
from embedship.errors import UsageError
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget

if TYPE_CHECKING:
    from embedship.export.options import ExportOptions
    from embedship.export.steps import StepTimer

_CHECKPOINT, _TEXTS, _VARIANTS, _GATES, _BUNDLE = "Checkpoint", "Texts", "Variants", "Gates and choice", "Bundle"
_VARIANT_NAMES = (
    "onnx, onnx-O1, onnx-O2, onnx-O3, onnx-O4 (--target cuda), onnx-int8, onnx-int8-weight, onnx-int8-dynamic, "
    "openvino, openvino-int8, openvino-int8-accuracy, openvino-int8-weight"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCommandOptions:
    """Arguments and options of `embedship export`."""

    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A sentence-transformers folder, a PEFT adapter folder, or a hub id (organisation/model@revision).",
        ),
    ]
    task: Annotated[
        Task,
        typer.Option(
            help="embed: one vector per text. rerank: one score per pair (a cross-encoder, one logit).",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = Task.EMBED
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model (default: from its folder or its model card).", rich_help_panel=_CHECKPOINT
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Base model of a PEFT adapter (default: named by the adapter).",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="For a plain transformers folder: mean, cls, max or lasttoken.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="With --pooling: normalise the vectors to unit length.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = False
    dimensions: Annotated[
        str,
        typer.Option(
            help="Matryoshka dimensions that the model was trained for, comma-separated (default: those that its card "
            "or config.json states).",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = ""
    truncate_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cut every vector to this dimension, as SentenceTransformer(..., truncate_dim=) does: without "
            "renormalising (default: the checkpoint's own).",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None
    allow_pickle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHA256",
            help="Read the pickled weights file that has this hash.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None
    trust_remote_code: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="Run the checkpoint's own code, if it has this hash.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None
    texts: Annotated[
        Path | None,
        typer.Option(
            help='JSON Lines, {"text": ...}: texts like those that you will embed, used for int8 calibration, parity '
            "and speed. Default: the documentation of Python's standard library. With --task rerank: pairs, "
            '{"query": ..., "text": ...}, several texts per query.',
            rich_help_panel=_TEXTS,
        ),
    ] = None
    queries: Annotated[
        Path | None,
        typer.Option(
            help='JSON Lines, {"text": ..., "session": ..., "timestamp": ...}: real queries, the reference for drift '
            "detection.",
            rich_help_panel=_TEXTS,
        ),
    ] = None
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="DIR",
            help="Measure retrieval before and after, on a folder with corpus.jsonl (_id, text, title), queries.jsonl "
            "(_id, text) and qrels.tsv. Titles are not embedded unless --eval-title is given.",
            rich_help_panel=_TEXTS,
        ),
    ] = None
    evaluation_title: Annotated[
        bool,
        typer.Option("--eval-title", help='Embed "title text" of each document.', rich_help_panel=_TEXTS),
    ] = False
    seed: Annotated[int, typer.Option(help="Seed for drawing sample texts.", min=0, rich_help_panel=_TEXTS)] = 0
    variants: Annotated[
        str,
        typer.Option(
            help=f"Variants to build, comma-separated, or `all`: {_VARIANT_NAMES}. `onnx` is always built. Default: "
            "onnx, openvino, and int8 for both (static for encoders, weight-only for decoders). A default variant that "
            "fails is left out and reported. A variant named here stops the export if it fails.",
            rich_help_panel=_VARIANTS,
        ),
    ] = ""
    skip_failed: Annotated[
        bool,
        typer.Option(
            "--skip-failed",
            help="Leave out a variant of --variants that fails, and keep the others.",
            rich_help_panel=_VARIANTS,
        ),
    ] = False
    target: Annotated[
        HardwareTarget,
        typer.Option(
            help="CPUs that will run the int8 files, or cuda to add float16. auto: CPUs like this one.",
            rich_help_panel=_VARIANTS,
        ),
    ] = HardwareTarget.AUTO
    converter: Annotated[
        GraphConverter,
        typer.Option(
            help="Converter of the float32 graph. optimum needs its own environment: see docs/variants.md.",
            rich_help_panel=_VARIANTS,
        ),
    ] = GraphConverter.EMBEDSHIP
    floor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION-FIGURE=VALUE",
            help="Change a floor of a gate, e.g. int8-minimum=0.96. PRECISION: float32, float16, bfloat16 or int8. "
            "FIGURE is minimum or mean (cosine to the checkpoint), short (minimum of texts of 1 to 8 tokens), overlap "
            "(of the ten nearest texts) or length (ratio). Repeatable.",
            rich_help_panel=_GATES,
        ),
    ] = None
    objective: Annotated[
        Objective,
        typer.Option(help="Measurement that decides which variant `serve` uses.", rich_help_panel=_GATES),
    ] = Objective.THROUGHPUT
    max_recall_drop: Annotated[
        float | None,
        typer.Option(
            help="With --eval: never choose a variant that loses more of the checkpoint's recall@10, e.g. 0.005.",
            min=0,
            max=1,
            rich_help_panel=_GATES,
        ),
    ] = None
    out: Annotated[Path, typer.Option(help="Bundle folder to write.", rich_help_panel=_BUNDLE)]
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.", rich_help_panel=_BUNDLE)] = False
    sign: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY", help="Sign the bundle with this private key (PEM), offline.", rich_help_panel=_BUNDLE
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Open and check all inputs, print the plan, write nothing.",
            rich_help_panel=_BUNDLE,
        ),
    ] = False
    as_json: JsonOption = False


@with_options(ExportCommandOptions)
def export(options: ExportCommandOptions) -> None:
    """Export a checkpoint to a verified bundle.

    Every variant must reproduce the checkpoint's own vectors. A default variant that does not is left out and reported.
    Exits with 3, and writes nothing, if the plain float32 graph or a variant of --variants fails; with 2 if the
    checkpoint cannot be exported; with 4 if it is unsafe to open.
    """
    from embedship.export.silence import stay_offline

    stay_offline()
    from embedship.export.build import build
    from embedship.export.steps import StepTimer

    build_options = export_options(options)
    steps = StepTimer()
    if options.dry_run:
        _plan(options.checkpoint, options.out, build_options, steps, options.as_json)
        return
    _report(build(options.checkpoint, options.out, build_options, steps), steps.seconds, options.as_json)


def export_options(options: ExportCommandOptions) -> ExportOptions:
    """Return the options of the export. Raises UsageError for floors that cannot be parsed."""
    from embedship.export.gates import parity
    from embedship.export.options import ExportOptions

    return ExportOptions(
        task=options.task,
        texts=options.texts,
        queries=options.queries,
        evaluation=options.evaluation,
        evaluation_title=options.evaluation_title,
        max_recall_drop=options.max_recall_drop,
        objective=options.objective,
        variants=tuple(part.strip() for part in options.variants.split(",") if part.strip()),
        floors=parity.floors(options.floor or (), options.task),
        name=options.name,
        seed=options.seed,
        force=options.force,
        base=options.base,
        pooling=options.pooling,
        normalize=options.normalize,
        dimensions=_numbers(options.dimensions),
        truncate_dim=options.truncate_dim,
        allow_pickle=tuple(options.allow_pickle or ()),
        trust_remote_code=options.trust_remote_code,
        target=options.target,
        converter=options.converter,
        sign=options.sign,
        skip_failed=options.skip_failed,
    )


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--dimensions {text} must be whole numbers from 1, comma-separated, e.g. 256,128,64")
    return tuple(map(int, parts))


def _plan(checkpoint: str, out: Path, options: ExportOptions, steps: StepTimer, as_json: bool) -> None:
    import msgspec

    from embedship.export import dry_run as export_dry_run

    planned = export_dry_run.plan(checkpoint, out, options, steps)
    if as_json:
        typer.echo(msgspec.json.encode(planned).decode())
        return
    console = terminal.output()
    console.print(export_dry_run.table(planned))
    count, size = len(planned.files), planned.bytes / 1e6
    console.print(f"{out} would contain {count} files, about {size:,.0f} MB, checked on {planned.texts} texts")


def _report(bundle: Bundle, seconds: dict[str, float], as_json: bool) -> None:
    from embedship.export.report import console as report_console

    if as_json:
        typer.echo(report_console.as_json(bundle, seconds))
        return
    console = terminal.output()
    console.print(report_console.table(bundle))
    for line in (
        *report_console.left_out(bundle),
        *report_console.fused(bundle),
        *report_console.source(bundle.manifest.source),
        *report_console.notes(bundle),
    ):
        console.print(line, soft_wrap=True)
    if bundle.manifest.quality:
        console.print(report_console.quality_table(bundle.manifest.quality))
    console.print(f"{bundle.folder} is ready, fingerprint {bundle.fingerprint[:12]}", soft_wrap=True)
