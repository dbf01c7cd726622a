from __future__ import annotations

import math

import numpy as np
import pytest

from embedship.bundle import Floors, Parity, Precision
from embedship.errors import GateError
from embedship.export.parity import FLOORS, Probes, judge, measure, shown
from embedship.tokens import Tokens

TEXTS = ["good", "also good", "bad\x1b[31m" + "!" * 200]
VECTORS = np.eye(3, dtype=np.float32)


class Encoding:
    """Stands in for an Encoder whose vectors are given."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def tokenizer(self, texts: list[str]) -> Tokens:
        return Tokens([[1]] * len(texts), [0] * len(texts))

    def encode_tokens(self, tokens: Tokens) -> np.ndarray:
        return self.vectors


def measured(last: list[float]) -> Parity:
    vectors = np.concatenate([VECTORS[:2], np.asarray([last], np.float32)])
    return measure(Encoding(vectors), Probes(TEXTS, VECTORS, 0)).parity  # type: ignore[arg-type]


def test_equal_vectors_pass() -> None:
    parity = measured([0, 0, 1])
    assert (parity.texts, parity.minimum, parity.mean) == (3, 1, 1)
    judge("onnx", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])


@pytest.mark.parametrize("last", [[0, 0.1, 1], [0, 0, math.nan], [0, 0, math.inf], [0, 0, 0]])
def test_one_bad_vector_of_many_fails_and_is_named(last: list[float]) -> None:
    parity = measured(last)
    with pytest.raises(GateError, match="--floor-float32-min") as raised:
        judge("onnx-O3", Precision.FLOAT32, parity, FLOORS[Precision.FLOAT32])
    message = str(raised.value)
    assert r"bad\x1b[31m!!!" in message
    assert "(208 characters)" in message
    assert "--variants without onnx-O3" in message


def test_the_mean_has_a_floor_of_its_own() -> None:
    parity = Parity(texts=3, longest=9, overlap=1.0, minimum=0.98, mean=0.985, worst_text="x")
    with pytest.raises(GateError, match=r"mean 0.985000 is under the floor 0.99 \(--floor-int8-mean\)"):
        judge("onnx-int8", Precision.INT8, parity, FLOORS[Precision.INT8])
    judge("onnx-int8", Precision.INT8, parity, Floors(minimum=0.97, mean=0.98))


def test_a_shown_text_is_one_printable_line() -> None:
    assert shown("a\nb\u202e") == r"'a\nb\u202e'"
