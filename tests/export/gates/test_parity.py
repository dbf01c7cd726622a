from __future__ import annotations

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from embedship.bundle import ParityFloors, ParityReport, Precision, Task
from embedship.errors import GateError, UsageError
from embedship.export.gates.parity import FLOORS, SCORE_FLOORS, floors, judge, measure, overlap
from embedship.export.gates.probe_set import ProbeSet
from embedship.tokens import TokenBatch

TEXTS = ["good", "also good", "bad\x1b[31m" + "!" * 200]
VECTORS = np.eye(3, dtype=np.float32)


class Encoding:
    """Stands in for an Encoder whose vectors are given."""

    bundle = SimpleNamespace(task=Task.EMBED)

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def tokenizer(self, texts: list[str], prompt: str = "") -> TokenBatch:
        return TokenBatch([[1]] * len(texts), [0] * len(texts))

    def encode_tokens(self, tokens: TokenBatch) -> np.ndarray:
        return self.vectors


def measured(last: list[float]) -> ParityReport:
    vectors = np.concatenate([VECTORS[:2], np.asarray([last], np.float32)])
    return measure(Encoding(vectors), "onnx-O3", ProbeSet(TEXTS, VECTORS, 0, 9, False))[0]  # type: ignore[arg-type]


def test_equal_vectors_pass() -> None:
    parity = measured([0, 0, 1])
    assert (parity.texts, parity.longest, parity.minimum, parity.mean) == (3, 9, 1, 1)
    assert (parity.overlap, parity.length) == (1, 1)
    judge("onnx", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])


@pytest.mark.parametrize("last", [[0, 0.1, 1], [0, 0, 0]])
def test_one_bad_vector_of_many_fails_and_is_named(last: list[float]) -> None:
    parity = measured(last)
    with pytest.raises(GateError, match="--floor float32-minimum") as raised:
        judge("onnx-O3", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])
    message = str(raised.value)
    assert r"bad\x1b[31m!!!" in message
    assert "(208 characters)" in message
    assert "variant onnx-O3 (float32)" in message


@pytest.mark.parametrize("last", [[0, 0, math.nan], [0, math.inf, 1]])
def test_nan_and_infinity_are_named(last: list[float]) -> None:
    with pytest.raises(GateError, match=r"onnx-O3 gives NaN or infinity for 1 of 3 texts, first 'bad\\x1b"):
        measured(last)


def test_a_lost_normalisation_fails_though_every_cosine_is_one() -> None:
    parity = measured([0, 0, 1.01])
    assert parity.minimum == pytest.approx(1)
    assert parity.length == pytest.approx(1 / 1.01)
    with pytest.raises(GateError, match=r"length ratio 0.990099 is under the floor 0.999 \(--floor float32-length\)"):
        judge("onnx", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])


def test_overlap_counts_shared_neighbours_and_forgives_ties() -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(60, 16)).astype(np.float32)
    noisy = expected + rng.normal(size=expected.shape).astype(np.float32) * 0.3
    assert overlap(expected * 3, expected) == 1
    scores = [rows @ rows.T for rows in (noisy, expected) if not normalise_in_place(rows)]
    by_hand = np.mean([len(set(nearest(scores[0], i)) & set(nearest(scores[1], i))) / 10 for i in range(60)])
    assert overlap(noisy, expected) == pytest.approx(by_hand)
    assert by_hand < 0.95
    twins = np.repeat(expected[:4], 15, axis=0)  # 14 equally near: any ten of them are right
    assert overlap(twins[::-1][::-1] + 0, twins) == 1


def normalise_in_place(rows: np.ndarray) -> None:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(scores: np.ndarray, row: int) -> list[int]:
    return [int(i) for i in np.argsort(-scores[row], kind="stable") if i != row][:10]


def test_overlap_has_a_floor_of_its_own() -> None:
    parity = ParityReport(texts=3, longest=9, overlap=0.8, length=1.0, minimum=0.99, mean=0.995, worst_text="x")
    with pytest.raises(GateError, match=r"top-10 overlap 0.800000 is under the floor 0.85 \(--floor int8-overlap\)"):
        judge("onnx-int8", Precision.INT8, parity, FLOORS[Precision.INT8])


def test_floors_are_set_one_by_one() -> None:
    changed = floors(["int8-minimum=0.9", "int8-overlap=0.5", "float32-mean=0.99"])
    assert (changed[Precision.INT8].minimum, changed[Precision.INT8].overlap) == (0.9, 0.5)
    assert changed[Precision.INT8].mean == FLOORS[Precision.INT8].mean
    assert changed[Precision.BFLOAT16] == FLOORS[Precision.BFLOAT16]


@pytest.mark.parametrize(
    "setting", ["int8-minimum", "int4-minimum=0.9", "int8-least=0.9", "int8-mean=x", "int8-mean=2"]
)
def test_a_floor_that_is_none_is_refused_with_what_is_allowed(setting: str) -> None:
    with pytest.raises(
        UsageError, match=f"--floor {setting} must .*float32, float16, .*minimum, mean, overlap, length"
    ):
        floors([setting])


def test_the_mean_has_a_floor_of_its_own() -> None:
    parity = ParityReport(texts=3, longest=9, overlap=1.0, length=1.0, minimum=0.98, mean=0.985, worst_text="x")
    with pytest.raises(GateError, match=r"mean cosine 0.985000 is under the floor 0.99 \(--floor int8-mean\)"):
        judge("onnx-int8", Precision.INT8, parity, FLOORS[Precision.INT8])
    judge("onnx-int8", Precision.INT8, parity, ParityFloors(minimum=0.97, mean=0.98, overlap=0.85, length=0.9))


@pytest.mark.parametrize("demanded", [FLOORS, SCORE_FLOORS])
def test_coarser_arithmetic_never_has_a_higher_floor(demanded: dict[Precision, ParityFloors]) -> None:
    ordered = [demanded[each] for each in (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8)]
    for figure in ("minimum", "mean", "overlap", "length"):
        values = [getattr(each, figure) for each in ordered]
        assert values == sorted(values, reverse=True), figure


def test_a_re_ranker_in_bfloat16_passes_with_the_likeness_seen_on_a_real_cpu() -> None:
    parity = msgspec.structs.replace(measured([0, 0, 1]), minimum=0.99883, mean=0.9999)
    judge("openvino", Precision.BFLOAT16, parity, SCORE_FLOORS[Precision.BFLOAT16], Task.RERANK)
    with pytest.raises(GateError, match="--floor float16-minimum"):
        judge("onnx-O4", Precision.FLOAT16, parity, SCORE_FLOORS[Precision.FLOAT16], Task.RERANK)


def test_short_texts_have_a_floor_of_their_own() -> None:
    short = np.asarray([[0.96, 0.28, 0]], np.float32)
    asked = ProbeSet(TEXTS, VECTORS, 0, 9, False, ["thank you"], np.asarray([[1, 0, 0]], np.float32))

    class Both(Encoding):
        def encode_tokens(self, tokens: object) -> np.ndarray:
            return short if len(tokens) == 1 else self.vectors  # type: ignore[arg-type]

    parity = measure(Both(VECTORS), "onnx-int8", asked)[0]  # type: ignore[arg-type]
    assert (parity.minimum, parity.short_texts, parity.short_worst_text) == (1, 1, "'thank you'")
    assert parity.short_minimum == pytest.approx(0.96)
    judge("onnx-int8", Precision.INT8, parity, FLOORS[Precision.INT8])
    with pytest.raises(GateError, match=r"1 short texts 0.96.* under the floor 0.99.*--floor float32-short.*thank you"):
        judge("onnx", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])
