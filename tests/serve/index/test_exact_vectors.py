from __future__ import annotations

import numpy as np

from embedship.serve.index.exact_vectors import widened


def test_widening_is_exact_for_every_finite_float16() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(widened(halves), halves.astype(np.float32))
