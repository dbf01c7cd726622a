"""Each variant as a file: what is in it, and whether it computes what the plain graph computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from embedship.batches import pad
from embedship.bundle import Bundle, BundleManifest, ParityFloors, Precision, Quantisation, Variant
from embedship.commands import main
from embedship.device import DeviceAddress, DeviceKind
from embedship.encoder import Encoder
from embedship.engine.onnxruntime import OnnxRuntimeEngine
from embedship.engine.openvino import OpenVinoEngine
from embedship.errors import UsageError
from embedship.export.build import build
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.steps import StepTimer
from embedship.export.variants import recipes as variants_recipes
from embedship.export.variants import torch_graph
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.recipes import CUDA, DECODER, ENCODER, BuildContext, BuiltVariant
from embedship.export.variants.targets import EXACT, HardwareTarget
from embedship.files.sealed import SealedFile
from embedship.tokens import Tokenizer

from ...instruction_sets import runs_weight_only_int8

BERT, QWEN = SimpleNamespace(model_type="bert"), SimpleNamespace(model_type="qwen3")
LINES = [f"read the file number {i} of the date {i * i}" for i in range(12)]
# Two random layers of 32 dimensions hold far less redundancy than a trained model: int8 costs them more.
LOOSE = {**parity.FLOORS, Precision.INT8: ParityFloors(minimum=0.5, mean=0.5, overlap=0.0, length=0.5)}
EVERY = list(variants_recipes.all_recipes(HardwareTarget.AVX2))


def floors(cosine: float) -> ParityFloors:
    return ParityFloors(minimum=cosine, mean=cosine, overlap=0.0, length=0.5)


Opened = tuple[EmbedderCheckpoint, Tokenizer]


def opened(folder: Path, work: Path) -> Opened:
    checkpoint = EmbedderCheckpoint.open(folder)
    (work / "tokenizer.json").write_text(checkpoint.tokenizer_json)
    return checkpoint, Tokenizer(work / "tokenizer.json", checkpoint.pipeline)


def make(
    checkpoint: Opened, work: Path, *names: str, isa: HardwareTarget = HardwareTarget.AVX512_VNNI
) -> list[BuiltVariant]:
    """The named variants, with `onnx` first."""
    feeds = variants_recipes.calibration_feeds(checkpoint[1], checkpoint[0], LINES)
    context = BuildContext(work, checkpoint[0], feeds, isa, floors(0.5))
    recipes = variants_recipes.all_recipes(isa)
    return [variants_recipes.build_variant(name, recipes[name], context) for name in ("onnx", *names)]


def vectors(work: Path, made: BuiltVariant, checkpoint: Opened) -> Any:
    pipeline, path = checkpoint[0].pipeline, work / made.recipe.path
    kind = partial(OpenVinoEngine, device=DeviceAddress(DeviceKind.CPU)) if path.suffix == ".xml" else OnnxRuntimeEngine
    engine = kind(path, pipeline.inputs, made.recipe.weights, 1, output=pipeline.task.output)
    rows = [engine.encode(pad([ids], pipeline.pad_id)) for ids in checkpoint[1](LINES).ids]
    engine.close()
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def bert(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(tiny, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Opened:
    from sentence_transformers.sentence_transformer.modules import Normalize

    return opened(checkpoint("qwen3", "lasttoken", tail=[Normalize()]), tmp_path_factory.mktemp("qwen"))


def weights(path: Path) -> list[TensorProto]:
    return list(onnx.load(str(path)).graph.initializer)


# which are made


@pytest.mark.parametrize(
    ("names", "target", "config", "expected"),
    [
        ((), HardwareTarget.AVX512_VNNI, BERT, ENCODER),
        ((), HardwareTarget.AVX2, QWEN, DECODER),
        ((), HardwareTarget.CUDA, QWEN, CUDA),
        (("openvino",), HardwareTarget.AUTO, BERT, ("onnx", "openvino")),
        (("onnx-O4", "onnx-int8"), HardwareTarget.CUDA, BERT, ("onnx", "onnx-O4", "onnx-int8")),
        (("all",), HardwareTarget.CUDA, BERT, tuple(variants_recipes.all_recipes(HardwareTarget.AVX2))),
        (
            ("all",),
            HardwareTarget.AVX2,
            BERT,
            tuple(n for n in variants_recipes.all_recipes(HardwareTarget.AVX2) if n != "onnx-O4"),
        ),
    ],
)
def test_which_variants_are_made(
    names: tuple[str, ...], target: HardwareTarget, config: Any, expected: tuple[str, ...]
) -> None:
    assert tuple(variants_recipes.select_recipes(names, target, HardwareTarget.AVX2, config)) == expected


def test_nothing_dynamic_slow_or_for_gpus_is_made_unasked() -> None:
    assert not {"onnx-int8-dynamic", "openvino-int8-accuracy", "onnx-O4"} & {*ENCODER, *DECODER}


@pytest.mark.parametrize(
    ("name", "target", "sentence"),
    [
        (
            "onnx-O9",
            HardwareTarget.AUTO,
            "there is no variant 'onnx-O9': use one of onnx, onnx-O1,.*openvino-int8-weight, all",
        ),
        ("onnx-O4", HardwareTarget.AVX2, "float16 for GPUs: add --target cuda"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, target: HardwareTarget, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        variants_recipes.require_known((name,), target, HardwareTarget.AVX2)


@pytest.mark.parametrize(
    "isa", [HardwareTarget.AVX2, HardwareTarget.AVX512, HardwareTarget.AVX512_VNNI, HardwareTarget.ARM64]
)
def test_what_multiplies_in_full_int8_says_what_it_needs(isa: HardwareTarget) -> None:
    recipes = variants_recipes.all_recipes(isa)
    full = {name for name, recipe in recipes.items() if recipe.needs == EXACT}
    multiplying = {n for n, r in recipes.items() if r.weights is Precision.INT8 and n != "openvino-int8-weight"}
    assert full == (multiplying if isa.exact else set())
    assert len({recipe.path.split(".")[0] for recipe in recipes.values()}) == len(recipes), "a sidecar has one owner"


# what is in them


def test_levels_are_those_of_optimum(bert: Opened, tmp_path: Path) -> None:
    plain, o1, o2, o3, o4 = make(bert, tmp_path, "onnx-O1", "onnx-O2", "onnx-O3", "onnx-O4")
    assert (plain.fused, o1.fused) == ({}, {})
    common = {"Attention": 2, "EmbedLayerNormalization": 1, "SkipLayerNormalization": 4}
    assert o2.fused == common | {"BiasGelu": 2}
    assert o3.fused == o4.fused == common | {"FastGelu": 2}
    sizes = [len(onnx.load(str(tmp_path / made.recipe.path)).graph.node) for made in (plain, o1, o2)]
    assert sizes == sorted(sizes, reverse=True)
    expected = vectors(tmp_path, plain, bert)
    for made in (o1, o2, o3, o4):
        np.testing.assert_allclose(vectors(tmp_path, made, bert), expected, atol=5e-3 if made is o4 else 1e-3)


def test_o4_is_float16_inside_and_float32_outside(bert: Opened, tmp_path: Path) -> None:
    made = make(bert, tmp_path, "onnx-O4")[1]
    model = onnx.load(str(tmp_path / made.recipe.path))
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}
    assert made.recipe.needs == ("cuda",)


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-int8-weight", "onnx-int8-dynamic"])
@pytest.mark.parametrize("isa", [HardwareTarget.AVX2, HardwareTarget.AVX512_VNNI, HardwareTarget.ARM64])
def test_onnx_int8_keeps_to_what_the_instructions_can_add(
    bert: Opened, tmp_path: Path, name: str, isa: HardwareTarget
) -> None:
    plain, made = make(bert, tmp_path, name, isa=isa)
    agreement = (vectors(tmp_path, made, bert) * vectors(tmp_path, plain, bert)).sum(axis=1)
    assert agreement.min() > (0.99 if made.recipe.quantisation is Quantisation.WEIGHT_ONLY else 0.8)
    model = onnx.load(str(tmp_path / made.recipe.path))
    matrices = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    if name == "onnx-int8-weight":
        levels = {a.i for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"}
        assert made.fused["MatMulNBits"] == 12
        assert levels == {4 if isa.exact else 1}, "float32 products where those of int8 overflow"
        return
    largest = max(int(np.abs(matrix.astype(int)).max()) for matrix in matrices if matrix.ndim == 2)
    assert largest > 100 if isa.exact else largest <= 64
    kinds = {t.data_type for t in model.graph.initializer if t.name.endswith("_zero_point") and not t.dims}
    if name == "onnx-int8":
        assert (TensorProto.UINT8 in kinds) == (isa is not HardwareTarget.ARM64), "signed activations on ARM"


def user(op: Any) -> str:
    """What a quantised constant is for; embeddings are looked up, which nothing overflows."""
    while op.get_type_name() in ("Constant", "Convert", "Subtract", "Multiply"):
        op = next(iter(op.output(0).get_target_inputs())).get_node()
    return str(op.get_type_name())


@pytest.mark.parametrize("isa", [HardwareTarget.AVX2, HardwareTarget.AVX512_VNNI])
def test_openvino_int8_keeps_to_what_the_instructions_can_add(
    bert: Opened, tmp_path: Path, isa: HardwareTarget
) -> None:
    import openvino as ov

    made = make(bert, tmp_path, "openvino-int8", isa=isa)[1]
    model = ov.Core().read_model(tmp_path / made.recipe.path)
    constants = [
        op for op in model.get_ops() if op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.i8
    ]
    matrices = [op.data for op in constants if user(op) == "MatMul"]
    assert len(matrices) == 12
    largest = max(int(np.abs(matrix.astype(int)).max()) for matrix in matrices)
    assert largest > 100 if isa.exact else largest <= 64


@runs_weight_only_int8
def test_weight_only_keeps_a_decoder_close(qwen: Opened, tmp_path: Path) -> None:
    plain, o3, onnx_weight, openvino_weight = make(
        qwen, tmp_path, "onnx-O3", "onnx-int8-weight", "openvino-int8-weight"
    )
    assert onnx_weight.fused["MatMulNBits"] == 14
    assert openvino_weight.fused["CompressedWeight"] == 15, "the embeddings too"
    expected = vectors(tmp_path, plain, qwen)
    for made, floor in ((o3, 0.99999), (onnx_weight, 0.995), (openvino_weight, 0.995)):
        assert (vectors(tmp_path, made, qwen) * expected).sum(axis=1).min() > floor, made.name


def test_accuracy_control_gives_products_back_until_the_floors_hold(tmp_path: Path) -> None:
    """On two products alone: each more costs NNCF a compilation, and a BERT of two layers two minutes."""
    from embedship.export.variants import openvino

    generator = np.random.default_rng(0)
    source = tmp_path / "source.onnx"
    feeds = [{"input_ids": generator.integers(-9, 9, (1, 16))} for _ in range(8)]
    matrices = [generator.normal(size=(16, 16)).astype(np.float32) for _ in range(2)]
    nodes = [
        onnx.helper.make_node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT),
        onnx.helper.make_node("MatMul", ["x", "first"], ["y"]),
        onnx.helper.make_node("Tanh", ["y"], ["z"]),
        onnx.helper.make_node("MatMul", ["z", "second"], ["sentence_embedding"]),
    ]
    body = onnx.helper.make_graph(
        nodes,
        "two products",
        [onnx.helper.make_tensor_value_info("input_ids", TensorProto.INT64, [None, 16])],
        [onnx.helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, [None, 16])],
        [numpy_helper.from_array(m, name) for m, name in zip(matrices, ("first", "second"), strict=True)],
    )
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 17)]), source)
    made = [
        openvino.quantise_accurately(source, tmp_path / "out.xml", feeds, HardwareTarget.AVX512_VNNI, floors(floor))
        for floor in (0.1, 0.99999)
    ]
    assert made[0] == openvino.quantise(source, tmp_path / "out.xml", feeds, HardwareTarget.AVX512_VNNI)
    assert made[1]["FakeQuantize"] < made[0]["FakeQuantize"]


# whole exports


def export(folder: Path, out: Path, *names: str, target: HardwareTarget = HardwareTarget.AUTO) -> Bundle:
    from rich.console import Console

    texts = out.with_suffix(".jsonl")
    texts.write_text("".join(f'{{"text": "{line}"}}\n' for line in LINES * 3))
    options = ExportOptions(texts=texts, floors=LOOSE, variants=names, target=target)
    return build(folder, out, options, StepTimer(Console(quiet=True)))


def graphs(bundle: Bundle) -> dict[str, SealedFile]:
    """Every graph and its sidecar; what else is in a bundle is the business of test_build."""
    return {name: file for name, file in bundle.manifest.files.items() if name.startswith(("onnx/", "openvino/"))}


def find_variant(manifest: BundleManifest, name: str) -> Variant:
    return next(variant for variant in manifest.variants if variant.name == name)


@runs_weight_only_int8
def test_large_models_every_variant_twice_the_same_bytes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_graph, "LARGEST", 10_000)
    names = [name for name in EVERY if name != "openvino-int8-accuracy"]
    bundle, again = (export(tiny, tmp_path / out, *names, target=HardwareTarget.CUDA) for out in ("one", "two"))
    assert graphs(bundle) == graphs(again)
    assert bundle.fingerprint == again.fingerprint
    for variant in bundle.manifest.variants:
        if variant.path.endswith(".onnx"):
            assert f"{variant.path}_data" in bundle.files_of(variant)
            assert variant.size == sum(bundle.manifest.files[name].size for name in bundle.files_of(variant)[2:])
    assert find_variant(bundle.manifest, "onnx-O4").needs == ("cuda",)
    assert find_variant(bundle.manifest, "onnx-O4").parity.minimum > 0.9995
    assert "onnx-O4" not in bundle.manifest.choice.tokens_per_second
    assert main.run(["verify", str(bundle.folder), "--all", "--json"]) == 0
    printed = capsys.readouterr().out
    assert '"skipped":{"onnx-O4":"cuda"}' in printed
    assert main.run(["verify", str(bundle.folder), "--variant", "onnx-O4"]) == 4
    assert "needs cuda" in capsys.readouterr().err
    (bundle.folder / "onnx/model_O3.onnx_data").write_bytes(b"")
    assert main.run(["verify", str(bundle.folder)]) == 4
    assert "onnx/model_O3.onnx_data has 0 bytes" in capsys.readouterr().err


@runs_weight_only_int8
def test_a_decoder_gets_weight_only_int8(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = checkpoint("qwen3", "lasttoken", tail=[Normalize()])
    bundle, again = (export(folder, tmp_path / name) for name in ("one", "two"))
    assert tuple(variant.name for variant in bundle.manifest.variants) == DECODER
    assert graphs(bundle) == graphs(again)
    for name in ("onnx-int8-weight", "openvino-int8-weight"):
        assert find_variant(bundle.manifest, name).quantisation is Quantisation.WEIGHT_ONLY
        with Encoder.open(bundle, name) as encoder:
            assert encoder.engine.precision is Precision.INT8


def test_the_other_converter_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedship.export.variants import optimum

    with pytest.raises(UsageError, match=r"transformers 4.57, and 5\.\S+ is installed"):
        GraphConverter.OPTIMUM.require()
    monkeypatch.setattr(optimum, "version", lambda package: "4.57.6")
    with pytest.raises(
        UsageError, match=r"optimum-onnx is not installed.*constraints-optimum.txt '\.\[cpu,export,optimum\]'"
    ):
        GraphConverter.OPTIMUM.require()
    GraphConverter.EMBEDSHIP.require()
