"""A bundle opens in sentence-transformers 5.7 and in Optimum with our vectors; and Optimum can make its graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from embedship import Bundle, Encoder
from embedship.bundle import ParityFloors, Precision, Runtime
from embedship.codes import cosine
from embedship.export.build import build
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.steps import StepTimer
from embedship.export.variants import torch_graph

from ..instruction_sets import LIMITED_TO_AVX2

SCRIPT = Path(__file__).parent / "open_bundle.py"
TEXTS = ["", "a", "heart attack", "the quick brown fox " * 30, "żółw 🐢 שלום", *(f"text number {i}" for i in range(5))]
# Two random layers hold far less redundancy than a trained model: int8 costs them more.
LOOSE = {**parity.FLOORS, Precision.INT8: ParityFloors(minimum=0.5, mean=0.5, overlap=0.0, length=0.5)}
VARIANTS = ("onnx-O1", "onnx-O2", "onnx-O3", "onnx-int8", "onnx-int8-weight", "openvino", "openvino-int8")
VARIANTS += () if LIMITED_TO_AVX2 else ("openvino-int8-weight",)

Run = Callable[..., Any]


def export(checkpoint: Path, out: Path, *names: str) -> Bundle:
    texts = out.with_suffix(".jsonl")
    texts.write_text("".join(json.dumps({"text": f"text number {i} of {i * i}"}) + "\n" for i in range(40)))
    return build(
        checkpoint, out, ExportOptions(texts=texts, variants=names, floors=LOOSE), StepTimer(Console(quiet=True))
    )


def require_equal(bundle: Bundle, run: Run, work: Path) -> None:
    texts, out = work / "texts.json", work / "vectors.npz"
    texts.write_text(json.dumps(TEXTS))
    graphs = [variant.path for variant in bundle.manifest.variants]
    answer = run(SCRIPT, bundle.folder, texts, out, *graphs)
    assert answer.returncode == 0, answer.stderr[-4000:]
    theirs = np.load(out)
    for variant in bundle.manifest.variants:
        with Encoder.open(bundle, variant.name) as encoder:
            ours = encoder.encode(TEXTS)
        # Other batches, so other kernels and, for int8, other last bits; and OpenVINO in bfloat16 on our side.
        exact = variant.runtime is Runtime.ONNXRUNTIME and variant.weights is Precision.FLOAT32
        floor = 0.999999 if exact else 0.999 if variant.weights is Precision.FLOAT32 else 0.99
        by_optimum = [f"optimum:{variant.path}"] if variant.runtime is Runtime.ONNXRUNTIME else []
        for opened in (variant.path, *by_optimum):
            assert cosine(theirs[opened], ours).min() > floor, opened


def test_every_graph_opens_elsewhere_with_our_vectors(tiny: Path, run: Run, tmp_path: Path) -> None:
    require_equal(export(tiny, tmp_path / "bundle", *VARIANTS), run, tmp_path)


def test_a_large_model_opens_elsewhere(tiny: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_graph, "LARGEST", 10_000)
    bundle = export(tiny, tmp_path / "bundle", "onnx-O3", "onnx-int8-weight")
    assert all(f"{variant.path}_data" in bundle.manifest.files for variant in bundle.manifest.variants)
    require_equal(bundle, run, tmp_path)


def test_a_real_model_opens_elsewhere(minilm: Path, run: Run, tmp_path: Path) -> None:
    require_equal(export(minilm, tmp_path / "bundle", "onnx-O3", "openvino"), run, tmp_path)


def test_optimum_converts_through_the_same_gate(minilm: Path, run: Run, tmp_path: Path) -> None:
    ours = export(minilm, tmp_path / "ours", "onnx")
    command = ["-m", "embedship", "export", minilm, "--converter", "optimum", "--variants", "onnx-O3", "--json"]
    answer = run(*command, "--out", tmp_path / "theirs", "--texts", tmp_path / "ours.jsonl")
    assert answer.returncode == 0, answer.stderr[-4000:]
    (line,) = answer.stdout.splitlines()
    result = json.loads(line)
    assert "optimum-onnx" in result["source"]["versions"]
    by_name = {variant["name"]: variant for variant in result["variants"]}
    assert by_name["onnx"]["parity"]["minimum"] > 0.99999
    assert by_name["onnx-O3"]["fused"]["SkipLayerNormalization"] == 12
    with Encoder.open(tmp_path / "theirs", "onnx") as theirs, Encoder.open(ours) as encoder:
        np.testing.assert_allclose(theirs.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)
