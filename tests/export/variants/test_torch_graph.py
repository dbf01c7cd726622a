from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from embedship.batches import Batch, pad
from embedship.bundle import Precision
from embedship.codes import cosine
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine.inputs import feed
from embedship.engine.openvino import OpenVinoEngine
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.variants import torch_graph
from embedship.export.variants.onnx import optimise, quantise, quantise_weights
from embedship.export.variants.targets import HardwareTarget

from ...instruction_sets import runs_weight_only_int8

MODES = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
TEXTS = ["read the file", "a", "parse a date of the text word by word by word", "of the"]


def padded(ids: list[list[int]], side: str) -> Batch:
    width = max(map(len, ids)) + 2  # two more than needed: over-padding must not matter
    input_ids, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), np.int64)
    for i, row in enumerate(ids):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        input_ids[i, place], mask[i, place] = row, 1
    return Batch(input_ids, mask)


def run(path: Path, batch: Batch, names: tuple[str, ...]) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.input_ids * 0,
    }
    return session.run(["sentence_embedding"], {name: feeds[name] for name in names})[0]


def tokenised(opened: EmbedderCheckpoint, texts: list[str]) -> list[list[int]]:
    return [opened.model.preprocess([text])["input_ids"][0].tolist() for text in texts]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("modes", [*MODES, ("cls", "max", "mean", "lasttoken")])
def test_pooling_equals_that_of_sentence_transformers(modes: Any, side: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((5, 9, 4), generator=generator)
    mask = torch.zeros((5, 9), dtype=torch.int64)
    for row, length in enumerate((9, 1, 4, 2, 7)):
        mask[row, slice(0, length) if side == "right" else slice(9 - length, 9)] = 1
    theirs = Pooling(4, pooling_mode=modes)({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
    ours = torch_graph.TokenPooling((modes,) if isinstance(modes, str) else modes)(hidden, mask)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("modes", [*MODES, ("cls", "max", "mean", "lasttoken")])
def test_pooling_without_a_prompt_equals_that_of_sentence_transformers(modes: Any) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    hidden = torch.randn((3, 9, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 4 + [0] * 5])
    given = {"token_embeddings": hidden, "attention_mask": mask, "prompt_length": 3}
    theirs = Pooling(4, pooling_mode=modes, include_prompt=False)(given)["sentence_embedding"]
    pooled = mask * (torch.arange(9) >= 3)
    ours = torch_graph.TokenPooling((modes,) if isinstance(modes, str) else modes)(hidden, pooled, mask)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("pooling", [*MODES, ("cls", "mean")])
def test_the_graph_gives_the_vectors_of_the_checkpoint(checkpoint: Any, pooling: Any, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    width = 32 * (1 if isinstance(pooling, str) else len(pooling))
    tail = [Dense(width, 16, activation_function=torch.nn.Tanh()), LayerNorm(16), Normalize()]
    opened = EmbedderCheckpoint.open(checkpoint(pooling=pooling, tail=tail))
    path = tmp_path / "model.onnx"
    torch_graph.write(opened, path)
    batch = padded(tokenised(opened, TEXTS), "right")
    expected = opened.encode(TEXTS)
    assert opened.pipeline.normalised
    np.testing.assert_allclose(run(path, batch, opened.pipeline.inputs), expected, atol=2e-6)
    engine = OpenVinoEngine(
        path, opened.pipeline.inputs, Precision.FLOAT32, 1, DeviceAddress(DeviceKind.CPU), "sentence_embedding"
    )
    assert cosine(engine.encode(batch), expected).min() > 0.995  # bfloat16 where the CPU has it


@pytest.mark.parametrize(("backbone", "pooling"), [("qwen3", "lasttoken"), ("modernbert", "cls")])
@pytest.mark.parametrize("side", ["right", "left"])
def test_other_architectures_and_both_padding_sides(
    checkpoint: Any, backbone: str, pooling: str, side: str, tmp_path: Path
) -> None:
    opened = EmbedderCheckpoint.open(checkpoint(backbone, pooling))
    path = tmp_path / "model.onnx"
    torch_graph.write(opened, path)
    assert "token_type_ids" not in opened.pipeline.inputs
    vectors = run(path, padded(tokenised(opened, TEXTS), side), opened.pipeline.inputs)
    assert cosine(vectors, opened.encode(TEXTS)).min() > 0.99999


@pytest.mark.parametrize(
    ("backbone", "pooling"), [("gemma3", "mean"), ("roberta", "mean"), ("gpt2", "lasttoken"), ("opt", "lasttoken")]
)
def test_masks_and_positions_of_the_models_own(checkpoint: Any, backbone: str, pooling: str, tmp_path: Path) -> None:
    """The longest text uses the last position, and is longer than the window of Gemma's sliding attention."""
    opened = EmbedderCheckpoint.open(checkpoint(backbone, pooling))
    path = tmp_path / "model.onnx"
    torch_graph.write(opened, path)
    texts = [*TEXTS, "word " * 80]
    ids = tokenised(opened, texts)
    assert max(map(len, ids)) == opened.pipeline.max_tokens
    batch = pad(ids, opened.pipeline.pad_id)
    np.testing.assert_allclose(run(path, batch, opened.pipeline.inputs), opened.encode(texts), rtol=1e-3, atol=2e-4)


def test_the_attention_of_the_model_is_given_back(checkpoint: Any) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    opened = EmbedderCheckpoint.open(checkpoint("gemma3"))
    before = ALL_MASK_ATTENTION_FUNCTIONS["eager"], opened.transformer.config._attn_implementation
    with torch_graph.eager(opened.transformer):
        assert ALL_MASK_ATTENTION_FUNCTIONS["eager"] is not before[0]
    assert (ALL_MASK_ATTENTION_FUNCTIONS["eager"], opened.transformer.config._attn_implementation) == before


@runs_weight_only_int8
def test_int8_weights_of_a_graph_whose_operators_have_several_outputs(checkpoint: Any, tmp_path: Path) -> None:
    """GPT-2 splits query, key and value in one operator."""
    from embedship.export.variants import openvino

    opened = EmbedderCheckpoint.open(checkpoint("gpt2", "lasttoken"))
    torch_graph.write(opened, tmp_path / "model.onnx")
    made = openvino.quantise_weights(tmp_path / "model.onnx", tmp_path / "int8.xml")
    assert made["CompressedWeight"] >= 2 * 4, "four products in each of two layers"
    engine = OpenVinoEngine(
        tmp_path / "int8.xml", opened.pipeline.inputs, Precision.INT8, 2, DeviceAddress(DeviceKind.CPU),
        "sentence_embedding",
    )  # fmt: skip
    batch = pad(tokenised(opened, TEXTS), opened.pipeline.pad_id)
    assert cosine(engine.encode(batch), opened.encode(TEXTS)).min() > 0.99


def test_exporting_twice_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        torch_graph.write(EmbedderCheckpoint.open(tiny), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_attention_and_gelu_are_fused(tiny: Path, tmp_path: Path) -> None:
    opened = EmbedderCheckpoint.open(tiny)
    torch_graph.write(opened, tmp_path / "model.onnx")
    fused = optimise(tmp_path / "model.onnx", tmp_path / "o3.onnx", opened.model[0].model.config, True)
    assert (fused["Attention"], fused["FastGelu"], fused["SkipLayerNormalization"]) == (2, 2, 4)


def test_a_large_model_has_one_sidecar_of_the_usual_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = EmbedderCheckpoint.open(tiny)
    torch_graph.write(opened, tmp_path / "whole.onnx")
    model = onnx.load(str(tmp_path / "whole.onnx"))
    monkeypatch.setattr(torch_graph, "LARGEST", 1000)
    for _ in range(2):  # the second replaces the first
        torch_graph.save(model, tmp_path / "model.onnx")
    whole = onnx.load(str(tmp_path / "whole.onnx")).graph.initializer
    assert [t.raw_data for t in model.graph.initializer] == [t.raw_data for t in whole], "saving takes nothing away"
    weights = sum(t.ByteSize() for t in model.graph.initializer)
    assert (tmp_path / "model.onnx_data").stat().st_size < 1.1 * weights
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size / 2
    batch, names = padded(tokenised(opened, TEXTS), "right"), opened.pipeline.inputs
    np.testing.assert_array_equal(
        run(tmp_path / "model.onnx", batch, names), run(tmp_path / "whole.onnx", batch, names)
    )


@pytest.mark.parametrize("backbone", ["deberta", "phi"])
def test_int8_of_graphs_that_the_quantisers_stumbled_over(checkpoint: Any, backbone: str, tmp_path: Path) -> None:
    """DeBERTa multiplies two constants. ONNX Runtime's own fusions for Phi fail on traced graphs."""
    opened = EmbedderCheckpoint.open(checkpoint(backbone))
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    torch_graph.write(opened, source)
    ids, config = tokenised(opened, TEXTS), opened.transformer.config
    if backbone == "phi":
        assert quantise_weights(source, target, config, HardwareTarget.AVX2)["MatMulNBits"] >= 8
    else:
        feeds = [feed(pad([row], 0), opened.pipeline.inputs) for row in ids]
        assert quantise(source, target, config, feeds, HardwareTarget.AVX2)["QuantizedMatMul"] >= 8
    assert cosine(run(target, pad(ids, 0), opened.pipeline.inputs), opened.encode(TEXTS)).min() > 0.9
