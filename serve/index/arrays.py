"""Array files: written row by row with little memory, and read through a memory map."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedship.errors import UnsafeError

# numpy parses the header of a .npy file as Python source, and raises what its parser raises.
HEADER_ERRORS = (ValueError, TypeError, OverflowError, EOFError, SyntaxError, TokenError)

Scalar = TypeVar("Scalar", np.float16, np.int8)


def write_rows(path: Path, blocks: Iterable[NDArray[np.generic]], shape: tuple[int, int], dtype: type[Scalar]) -> None:
    """Write a .npy file of `shape` from blocks of its rows.

    This does not use a memory map: on a full disk, writing to a map kills the process (SIGBUS), writing to a file
    raises OSError.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    assert written == shape[0], f"{written} rows were written, {shape[0]} were announced"


def map_array(path: Path, shape: tuple[int, int], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Map a .npy file read-only. Raises UnsafeError if it is damaged or is not an array of `shape` and `dtype`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *HEADER_ERRORS) as error:
        raise UnsafeError(f"{path} is damaged: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise UnsafeError(f"{path} has {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
    return np.asarray(array)
