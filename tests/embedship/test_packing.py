from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedship.bundle import Bundle, Code, Codes
from embedship.errors import UsageError
from embedship.packing import packed


@pytest.fixture
def frozen(bundle: Path) -> Codes:
    return Bundle.open(bundle).manifest.codes


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(3).normal(size=(5, 384)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_each_code_by_its_definition(frozen: Codes, vectors: np.ndarray) -> None:
    (scale,) = (np.array(each.scale) for each in frozen.int8 if each.dimension == 384)
    expected = {
        Code.FLOAT32: vectors,
        Code.FLOAT16: vectors.astype(np.float16),
        Code.INT8: np.clip(np.round(vectors / scale.astype(np.float32)), -127, 127).astype(np.int8),
        Code.UBINARY: np.packbits(vectors > frozen.binary_threshold, axis=1),
    }
    for code in Code:
        rows = packed(vectors, code, frozen)
        assert rows.dtype == expected[code].dtype
        assert np.array_equal(rows, expected[code]), code


def test_what_was_not_frozen_is_refused(frozen: Codes, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match="no int8 code for 100 dimensions"):
        packed(vectors[:, :100], Code.INT8, frozen)
    with pytest.raises(ValueError, match="divisible by 8"):
        packed(vectors[:, :100], Code.UBINARY, frozen)
