"""The verb on a tiny bundle, and where torch is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embedship.commands import main
from embedship.export.build import build
from embedship.export.options import ExportOptions

from ...test_structure import MISSING
from ..gates.test_dataset import write
from ..test_build import quiet

LINES = [f"read the file number {i} of the date {i * i}" for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = {f"d{i}": line for i, line in enumerate(LINES)}
    queries = {f"q{i}": line for i, line in enumerate(LINES[:20])}
    return write(tmp_path_factory.mktemp("beir"), corpus, queries, [f"q{i}\td{i}\t1" for i in range(20)])


@pytest.fixture(scope="module")
def tuned(tiny: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "bundle"
    build(tiny, out, ExportOptions(variants=("onnx-O3",), texts=texts(folder)), quiet())
    return out


def texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return path


def test_one_line_of_json_with_every_row(tuned: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["evaluate", str(tuned), str(folder), "--variants", "all", "--json"]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    answer = json.loads(line)
    assert (answer["queries"], answer["documents"]) == (20, 60)
    rows = [(row["variant"], row["dimension"], row["code"], row["rescored"]) for row in answer["measured"]]
    codes = [("float32", False), ("float16", False), ("int8", False), ("ubinary", False), ("ubinary", True)]
    assert rows == [(name, 32, *code) for name in ("onnx", "onnx-O3") for code in codes]
    assert answer["measured"][0]["metrics"]["recall@10"] == 1
    assert "onnx-O3" in printed.err


def test_a_table_of_eighty_columns(tuned: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["evaluate", str(tuned), str(folder), "--variants", "onnx", "--codes", "float32,ubinary+int8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("ubinary+int8" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_gate_judges_what_was_asked_for(tuned: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["evaluate", str(tuned), str(folder), "--variants", "onnx-O3", "--max-recall-drop", "0.005"]
    assert main.run(ask) == 0, "sign bits lose more, but float32 is what is judged unless codes are named"
    assert main.run([*ask, "--codes", "float32,ubinary"]) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "recall@10 falls by more than 0.005 from onnx's 1.0000: onnx-O3 32 ubinary" in error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--variants", "tensorrt"], "it has: onnx, onnx-O3"),
        (["--dimensions", "7"], "--dimensions 7: this model was trained for 32"),
        (["--codes", "int4"], "--codes int4: there are float32, float16, int8, ubinary, ubinary+int8"),
    ],
)
def test_what_there_is_none_of(
    tuned: Path, folder: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["evaluate", str(tuned), str(folder), *options]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "module", ["embedship.export.commands.evaluate", "embedship.export.report.console", "embedship.commands.tune"]
)
def test_a_serving_image_without_torch_can_evaluate_and_tune(module: str) -> None:
    code = MISSING + f"import {module}\nprint('fine')"
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert answer.stdout == "fine\n", answer.stderr
