from __future__ import annotations

from pathlib import Path

import typer

from embedship.bundle import Objective, Precision, Task
from embedship.commands.options import with_options
from embedship.export.commands.export import ExportCommandOptions, export_options
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget


def parse(*line: str) -> ExportCommandOptions:
    parsed: list[ExportCommandOptions] = []
    app = typer.Typer()
    app.command()(with_options(ExportCommandOptions)(parsed.append))
    app(line, standalone_mode=False)
    return parsed[0]


def test_the_command_has_the_defaults_of_the_library() -> None:
    options = parse("checkpoint", "--out", "bundle")
    assert (options.checkpoint, options.out, options.dry_run, options.as_json) == (
        "checkpoint",
        Path("bundle"),
        False,
        False,
    )
    assert export_options(options) == ExportOptions()


def test_every_flag_reaches_the_export() -> None:
    line = (
        "checkpoint --out bundle --task rerank --name n --base b --pooling mean --normalize --allow-pickle p "
        "--allow-pickle q --trust-remote-code c --texts t --queries q --eval e --eval-title --seed 3 "
        "--variants onnx,openvino --skip-failed --target avx2 --converter optimum --floor int8-minimum=0.5 "
        "--objective latency --max-recall-drop 0.25 --force --sign key"
    )
    expected = ExportOptions(
        task=Task.RERANK,
        name="n",
        base="b",
        pooling="mean",
        normalize=True,
        allow_pickle=("p", "q"),
        trust_remote_code="c",
        texts=Path("t"),
        queries=Path("q"),
        evaluation=Path("e"),
        evaluation_title=True,
        seed=3,
        variants=("onnx", "openvino"),
        skip_failed=True,
        target=HardwareTarget("avx2"),
        converter=GraphConverter.OPTIMUM,
        floors=parity.floors(["int8-minimum=0.5"], Task.RERANK),
        objective=Objective.LATENCY,
        max_recall_drop=0.25,
        force=True,
        sign=Path("key"),
    )
    assert export_options(parse(*line.split())) == expected
    assert expected.floors[Precision.INT8].minimum == 0.5
