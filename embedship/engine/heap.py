"""Returns free memory, which the C library keeps for later, to the operating system."""

from __future__ import annotations

import ctypes

from embedship.batches import BUDGET

# A batch with more padded tokens is unusual: its memory is returned to the system, which takes about 50 ms.
LARGE = 4 * BUDGET


def trim_heap() -> None:
    """Return free memory to the operating system. Only glibc keeps it, and only glibc has this call."""
    if (call := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        call(0)
