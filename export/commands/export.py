"""The command `embedship export`. Heavy packages are imported only after the options have been read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedship import terminal
from embedship.bundle import Bundle, Objective, Task
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget

if TYPE_CHECKING:
    from embedship.export.options import ExportOptions
    from embedship.export.steps import StepTimer

_VARIANTS = (
    "onnx, onnx-O1, onnx-O2, onnx-O3, onnx-O4 (--target cuda), onnx-int8, onnx-int8-weight, onnx-int8-dynamic, "
    "openvino, openvino-int8, openvino-int8-accuracy, openvino-int8-weight"
)


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A sentence-transformers folder, a PEFT adapter folder, or a hub id (organisation/model@revision).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Bundle folder to write.")],
    task: Annotated[
        Task, typer.Option(help="embed: one vector per text. rerank: one score per pair (a cross-encoder, one logit).")
    ] = Task.EMBED,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            help='JSON Lines, {"text": ...}: texts like those that you will embed, used for int8 calibration, parity '
            "and speed. Default: the documentation of Python's standard library. With --task rerank: pairs, "
            '{"query": ..., "text": ...}, several texts per query.',
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            help='JSON Lines, {"text": ..., "session": ..., "timestamp": ...}: real queries, the reference for drift '
            "detection.",
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="DIR",
            help="Measure retrieval before and after, on a folder with corpus.jsonl (_id, text, title), queries.jsonl "
            "(_id, text) and qrels.tsv. Titles are not embedded unless --eval-title is given.",
        ),
    ] = None,
    eval_title: Annotated[bool, typer.Option("--eval-title", help='Embed "title text" of each document.')] = False,
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            help=f"Variants to build, comma-separated, or `all`: {_VARIANTS}. `onnx` is always built. Default: onnx, "
            "openvino, and int8 for both (static for encoders, weight-only for decoders). A default variant that fails "
            "is left out and reported. A variant named here stops the export if it fails.",
        ),
    ] = "",
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Leave out a variant of --variants that fails, and keep the others.")
    ] = False,
    target: Annotated[
        HardwareTarget,
        typer.Option(help="CPUs that will run the int8 files, or cuda to add float16. auto: CPUs like this one."),
    ] = HardwareTarget.AUTO,
    converter: Annotated[
        GraphConverter,
        typer.Option(help="Converter of the float32 graph. optimum needs its own environment: see docs/variants.md."),
    ] = GraphConverter.EMBEDSHIP,
    name: Annotated[
        str | None, typer.Option(help="Name of the model (default: from its folder or its model card).")
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            "--floor",
            metavar="PRECISION-FIGURE=VALUE",
            help="Change a floor of a gate, e.g. int8-minimum=0.96. PRECISION: float32, float16, bfloat16 or int8. "
            "FIGURE is minimum or mean (cosine to the checkpoint), short (minimum of texts of 1 to 8 tokens), overlap "
            "(of the ten nearest texts) or length (ratio). Repeatable.",
        ),
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="Measurement that decides which variant `serve` uses.")
    ] = Objective.THROUGHPUT,
    max_recall_drop: Annotated[
        float | None,
        typer.Option(
            "--max-recall-drop",
            help="With --eval: never choose a variant that loses more of the checkpoint's recall@10, e.g. 0.005.",
            min=0,
            max=1,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="PATH", help="Base model of a PEFT adapter (default: named by the adapter)."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", metavar="MODE", help="For a plain transformers folder: mean, cls, max or lasttoken."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="With --pooling: normalise the vectors to unit length.")
    ] = False,
    allow_pickle: Annotated[
        list[str] | None,
        typer.Option("--allow-pickle", metavar="SHA256", help="Read the pickled weights file that has this hash."),
    ] = None,
    trust_remote_code: Annotated[
        str | None,
        typer.Option(
            "--trust-remote-code", metavar="SHA256", help="Run the checkpoint's own code, if it has this hash."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for drawing sample texts.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the bundle with this private key (PEM), offline.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open and check all inputs, print the plan, write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export a checkpoint to a verified bundle.

    Every variant must reproduce the checkpoint's own vectors. A default variant that does not is left out and reported.
    Exits with 3, and writes nothing, if the plain float32 graph or a variant of --variants fails; with 2 if the
    checkpoint cannot be exported; with 4 if it is unsafe to open.
    """
    from embedship.export.silence import stay_offline

    stay_offline()
    from embedship.export.build import build
    from embedship.export.gates import parity
    from embedship.export.options import ExportOptions
    from embedship.export.steps import StepTimer

    wishes = ExportOptions(
        task=task,
        texts=texts,
        queries=queries,
        evaluation=evaluation,
        evaluation_title=eval_title,
        variants=tuple(part.strip() for part in variants.split(",") if part.strip()),
        max_recall_drop=max_recall_drop,
        objective=objective,
        floors=parity.floors(floor or (), task),
        name=name,
        seed=seed,
        force=force,
        base=base,
        pooling=pooling,
        normalize=normalize,
        allow_pickle=tuple(allow_pickle or ()),
        trust_remote_code=trust_remote_code,
        sign=sign,
        skip_failed=skip_failed,
        target=target,
        converter=converter,
    )
    steps = StepTimer()
    if dry_run:
        _plan(checkpoint, out, wishes, steps, as_json)
        return
    _report(build(checkpoint, out, wishes, steps), steps.seconds, as_json)


def _plan(checkpoint: str, out: Path, wishes: ExportOptions, steps: StepTimer, as_json: bool) -> None:
    import msgspec

    from embedship.export import dry_run as export_dry_run

    planned = export_dry_run.plan(checkpoint, out, wishes, steps)
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
