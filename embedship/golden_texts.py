"""Golden texts of a bundle: probe texts, their token ids and the checkpoint's vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from embedship.bundle import GOLDEN, Bundle, ParityFloors, Quantisation, Variant
from embedship.codes import Vectors
from embedship.errors import UnsafeError
from embedship.tokens import Text

# Runtimes use other kernels for one text than for many, and their results differ in the last bits. A cosine lower than
# this means that a text's vector depends on the other texts of its batch.
ALONE_FLOOR = 0.999

REAL = 14  # number of real texts among the golden texts


def batch_invariance_floor(variant: Variant, floors: ParityFloors) -> float:
    """Return the lowest accepted cosine between a text alone and in a batch.

    Dynamic int8 vectors depend on the batch by design, so they may differ as much as int8 may from the checkpoint.
    """
    return floors.minimum if variant.quantisation is Quantisation.DYNAMIC else ALONE_FLOOR


@dataclass(frozen=True, slots=True)
class GoldenTexts:
    """Probe texts, their token ids and the checkpoint's (n, dim) float32 vectors: adversarial texts, then REAL real."""

    texts: list[Text]
    ids: list[list[int]]
    vectors: Vectors

    @property
    def real(self) -> list[Text]:
        """The real texts."""
        return self.texts[-REAL:]

    def save(self, path: Path) -> None:
        """Write the file that `load` reads."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "ids": np.concatenate([np.asarray(row, dtype=np.int64) for row in self.ids]),
            "lengths": np.asarray([len(row) for row in self.ids], dtype=np.int64),
            "vectors": np.ascontiguousarray(self.vectors),
        }
        safetensors.numpy.save_file(tensors, path, metadata={"texts": json.dumps(self.texts)})

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Read the golden texts of a bundle. Raises UnsafeError if the file is damaged."""
        path = bundle.path(GOLDEN)
        try:
            with safe_open(path, framework="numpy") as file:
                texts = [_text(value) for value in json.loads((file.metadata() or {})["texts"])]
                ids, lengths, vectors = (file.get_tensor(key) for key in ("ids", "lengths", "vectors"))
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise UnsafeError(f"{path} is damaged: {error}; export the bundle again") from None
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        return cls(texts, [row.tolist() for row in rows], vectors)


def _text(value: Any) -> Text:
    """Return a text or a pair from JSON, which has no tuples."""
    return value if isinstance(value, str) else (str(value[0]), str(value[1]))
