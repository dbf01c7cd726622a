"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes

from embedship.batches import BUDGET

# More padded tokens than this are no everyday batch: the memory they took is given back, which costs some 50 ms.
LARGE = 4 * BUDGET


def trim_heap() -> None:
    """Hand free memory back to the system. Only glibc keeps it, and only glibc has the call."""
    if (call := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        call(0)
