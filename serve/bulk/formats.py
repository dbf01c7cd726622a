"""The files of a bulk run: a shard as .npy or as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from embedship.errors import MissingExtra


class OutputFormat(StrEnum):
    NPY = "npy"
    PARQUET = "parquet"


def _npy(array: npt.NDArray[Any], ids: Sequence[str | int]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _parquet(array: npt.NDArray[Any], ids: Sequence[str | int]) -> bytes:
    """Columns `id` (a string) and `vector` (a list of fixed size)."""
    pa = arrow()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    buffer = BytesIO()
    pa.parquet.write_table(pa.table({"id": pa.array(map(str, ids), pa.string()), "vector": vectors}), buffer)
    return buffer.getvalue()


WRITERS: dict[OutputFormat, Callable[[npt.NDArray[Any], Sequence[str | int]], bytes]] = {
    OutputFormat.NPY: _npy,
    OutputFormat.PARQUET: _parquet,
}


def arrow() -> Any:
    """Raises MissingExtra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtra("pyarrow", "parquet") from None
    return pyarrow
