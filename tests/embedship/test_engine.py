"""One suite for every engine on every device of this machine. A variant is run only where it was verified."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from embedship.batches import Batch, pad
from embedship.bundle import Bundle, MachineInfo, Precision, Runtime, Variant
from embedship.codes import cosine
from embedship.device import DeviceAddress
from embedship.engine import open_engine, require
from embedship.engine.buckets import pad_to_bucket
from embedship.engine.device import machine as machine_of
from embedship.engine.protocol import Engine
from embedship.errors import EngineError, MismatchError, UsageError
from embedship.export.variants import targets
from embedship.export.variants.targets import EXACT, HardwareTarget
from embedship.golden_texts import ALONE_FLOOR, GoldenTexts

CASES = [
    ("onnx", "cpu"),
    ("onnx-int8", "cpu"),
    ("openvino", "cpu"),
    ("openvino-int8", "cpu:0"),
    ("onnx", "cuda:0"),
    ("onnx-O4", "cuda:0"),
    ("onnx-O4", "tensorrt:0"),
    ("openvino", "gpu:0"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} on {case[1]}")
def engine(bundle: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    variant, device = request.param
    opened = Bundle.open(bundle)
    if variant not in {v.name for v in opened.manifest.variants}:
        pytest.skip(f"the test bundle has no {variant}: it is exported on a machine with a GPU, --target cuda")
    try:
        engine = open_engine(opened, variant, streams=2, device=device)
    except EngineError as error:
        if device.startswith("cpu"):
            raise
        pytest.skip(str(error))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def texts(bundle: Path) -> GoldenTexts:
    return GoldenTexts.load(Bundle.open(bundle))


def test_an_engine_gives_the_vectors_of_the_checkpoint(engine: Engine, bundle: Path, texts: GoldenTexts) -> None:
    vectors = engine.encode(pad(texts.ids, 0))
    floors = Bundle.open(bundle).manifest.floors[engine.precision]
    assert vectors.dtype == np.float32
    assert cosine(vectors, texts.vectors).min() >= floors.minimum


def test_neighbours_and_order_do_not_change_a_vector(engine: Engine, texts: GoldenTexts) -> None:
    together = engine.encode(pad(texts.ids, 0))
    backwards = engine.encode(pad(texts.ids[::-1], 0))[::-1]
    alone = np.concatenate([engine.encode(pad([ids], 0)) for ids in texts.ids])
    assert cosine(backwards, together).min() >= ALONE_FLOOR
    assert cosine(alone, together).min() >= ALONE_FLOOR


def test_more_threads_than_streams_get_their_own_vectors(engine: Engine, texts: GoldenTexts) -> None:
    expected = [engine.encode(pad([ids], 0)) for ids in texts.ids]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda ids: engine.encode(pad([ids], 0)), texts.ids)
        assert all(cosine(a, b)[0] >= ALONE_FLOOR for a, b in zip(found, expected, strict=True))


def test_memory_returns_after_a_large_batch(engine: Engine) -> None:
    """Without that, 128 rows of 128 tokens leave OpenVINO 190 MB larger."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def run(rows: int) -> float:
        engine.encode(pad([[101, *range(2000, 2126), 102]] * rows, 0))
        return resident()

    before = max(run(8) for _ in range(4))
    run(128)
    assert run(8) < before + 80


def test_vectors_are_the_callers_own(engine: Engine, texts: GoldenTexts) -> None:
    """A view of the runtime's memory would change with the next batch."""
    first = engine.encode(pad(texts.ids[:1], 0))
    kept = first.copy()
    engine.encode(pad(texts.ids[1:2], 0))
    assert np.array_equal(first, kept)


def test_failed_batches_leave_the_engine_right_on_every_stream(engine: Engine) -> None:
    """Each stream of OpenVINO remembers the shapes of batches that failed in it."""
    good, too_wide = pad([[101, 7592, 102]], 0), pad([[101] * 600], 0)  # MiniLM has 512 positions
    expected = engine.encode(good)
    for _ in range(3):
        with pytest.raises(EngineError, match="failed on a batch of 1"):
            engine.encode(too_wide)
        for _ in range(4):
            assert cosine(engine.encode(good), expected)[0] >= ALONE_FLOOR


def test_a_mask_of_another_shape_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"token ids \(1, 7\), attention mask \(1, 5\)"):
        engine.encode(Batch(np.ones((1, 7), np.int64), np.ones((1, 5), np.int64)))


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_buckets_add_only_what_is_masked_and_their_shapes_are_few(lengths: list[int]) -> None:
    batch = pad([[7] * length for length in lengths], 0)
    wide = pad_to_bucket(batch, 0)
    rows, width = batch.input_ids.shape
    assert np.array_equal(wide.input_ids[:rows, :width], batch.input_ids)
    assert np.array_equal(wide.attention_mask[:rows, :width], batch.attention_mask)
    assert not wide.attention_mask[:rows, width:].any()
    assert (wide.attention_mask[rows:].sum(axis=1) == 1).all()
    assert wide.input_ids.shape[1] % 16 == 0
    assert wide.input_ids.shape[0].bit_count() == 1


def test_a_bucketed_batch_has_the_same_vectors(bundle: Path, texts: GoldenTexts) -> None:
    engine = open_engine(Bundle.open(bundle), "onnx", streams=1)
    batch = pad(texts.ids[:5], 0)
    assert cosine(engine.encode(pad_to_bucket(batch, 0))[:5], engine.encode(batch)).min() >= ALONE_FLOOR
    engine.close()


@pytest.mark.parametrize(("variant", "device"), [("openvino", "cuda:0"), ("onnx", "gpu:0")])
def test_a_runtime_is_refused_a_device_it_does_not_know(bundle: Path, variant: str, device: str) -> None:
    with pytest.raises(
        UsageError, match=r"which does not support (cuda|gpu):0: use a variant of (onnxruntime|openvino)"
    ):
        open_engine(Bundle.open(bundle), variant, device=device)


def test_int8_that_was_made_for_a_cpu_is_refused_on_a_gpu(bundle: Path) -> None:
    manifest, int8 = Bundle.open(bundle).manifest, Bundle.open(bundle).variant("onnx-int8")
    assert int8.needs == targets.cpu(HardwareTarget.AUTO, manifest.choice.machine).needs
    exact = msgspec.structs.replace(int8, needs=EXACT)  # as exported on a CPU without int8 instructions
    with pytest.raises(MismatchError, match="needs avx512_vnni"):
        open_engine(Bundle(bundle, msgspec.structs.replace(manifest, variants=(exact,))), exact.name, device="cuda:0")


@pytest.mark.parametrize("device", ["cuda:99", "gpu:99"])
def test_an_absent_device_is_named(bundle: Path, device: str) -> None:
    variant = "openvino" if device.startswith("gpu") else "onnx"
    with pytest.raises(EngineError, match=rf"{device}.*(install onnxruntime-gpu|found \d+ Intel GPUs|cannot)"):
        open_engine(Bundle.open(bundle), variant, device=device)


def test_a_closed_engine_leaves_no_thread_behind(bundle: Path) -> None:
    before = set(threading.enumerate())
    open_engine(Bundle.open(bundle), "onnx", streams=1).close()
    assert set(threading.enumerate()) <= before


def machine(*isa: str) -> MachineInfo:
    return MachineInfo(cpu="a test's CPU", isa=isa, cores=2)


def needing(bundle: Path, *needs: str) -> Variant:
    return msgspec.structs.replace(Bundle.open(bundle).manifest.variants[0], needs=needs)


@pytest.mark.parametrize(
    ("needs", "isa", "runs"),
    [
        ((), (), True),
        (("avx512_vnni", "avx_vnni", "asimd"), ("avx2", "avx_vnni"), True),
        (("avx512_vnni", "avx_vnni", "asimd"), ("avx2", "avx512f"), False),
        (("cuda",), ("avx2", "avx512_vnni"), False),
    ],
)
def test_a_variant_is_refused_where_it_was_not_verified(
    bundle: Path, needs: tuple[str, ...], isa: tuple[str, ...], runs: bool
) -> None:
    variant = needing(bundle, *needs)
    if runs:
        require(variant, machine(*isa))
    else:
        with pytest.raises(
            MismatchError, match=r"needs (cuda|avx512_vnni or .*), .* has avx2.*export again with a --target"
        ):
            require(variant, machine(*isa))


def test_float16_is_for_cuda(bundle: Path) -> None:
    require(needing(bundle, "cuda"), machine_of(DeviceAddress.parse("cuda:0")))
    require(needing(bundle, "cuda"), machine_of(DeviceAddress.parse("tensorrt:0")))
    with pytest.raises(MismatchError):
        require(needing(bundle, "cuda"), machine_of(DeviceAddress.parse("gpu:0")))


@pytest.mark.parametrize(
    ("capabilities", "device", "weights", "hint"),
    [
        (["FP32", "INT8", "BF16"], "cpu", Precision.FLOAT32, "bf16"),
        (["FP32", "INT8"], "cpu", Precision.FLOAT32, "f32"),
        (["FP32", "INT8", "BF16"], "cpu", Precision.INT8, "f32"),
        (["FP32", "INT8", "FP16"], "gpu:0", Precision.FLOAT32, "f16"),
        (["FP32", "INT8", "FP16"], "gpu:0", Precision.INT8, "f16"),
    ],
)
def test_int8_files_compute_nothing_in_bfloat16(
    capabilities: list[str], device: str, weights: Precision, hint: str
) -> None:
    from embedship.engine.openvino import _arithmetic

    assert _arithmetic(capabilities, DeviceAddress.parse(device), weights) == hint


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.OPENVINO])
def test_a_graph_without_the_output_is_a_sentence(bundle: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Every hash of such a bundle can be right."""
    opened = Bundle.open(bundle)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "s"])
    other = helper.make_tensor_value_info("other", TensorProto.INT64, ["n", "s"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["other"])], "small", [ids], [other])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "x.onnx")
    )
    variant = msgspec.structs.replace(opened.plain, name="x", runtime=runtime, path="x.onnx")
    changed = msgspec.structs.replace(opened.manifest, variants=(variant,))
    small = msgspec.structs.replace(opened, folder=tmp_path, manifest=changed)
    with pytest.raises(EngineError):
        open_engine(small, "x", 1).encode(pad([[1, 2]], 0))


@pytest.mark.parametrize("variant", ["openvino-int8"])
def test_openvino_is_told_to_compute_int8_files_in_float32(bundle: Path, variant: str) -> None:
    """The hint is set in the compiled model. On a CPU without bfloat16 it is float32 anyway."""
    from embedship.engine.openvino import OpenVinoEngine

    engine = open_engine(Bundle.open(bundle), variant, 2)
    assert isinstance(engine, OpenVinoEngine)
    try:
        assert engine._compile().get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert engine.precision is Precision.INT8
    finally:
        engine.close()
