"""Dimensions of an embedding model's vectors: the checkpoint's own, or those that the user states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedship.errors import UsageError
from embedship.export.checkpoint.folder import SentenceTransformersFolder, descending

_UNCUT = 2**31


@dataclass(frozen=True, slots=True)
class StatedDimensions:
    """Dimensions from the command line, which replace those of the checkpoint.

    `matryoshka`: the dimensions that the model was trained for; if empty, those of the checkpoint. `truncate_dim`: the
    dimension of every vector; None: that of the checkpoint.
    """

    matryoshka: tuple[int, ...] = ()
    truncate_dim: int | None = None

    def truncate(self, model: Any) -> int:
        """Set `truncate_dim` in `model` if it is stated. Return the dimension of the vectors.

        Raises UsageError if `truncate_dim` is larger than the model's dimension: sentence-transformers would ignore it.
        """
        if self.truncate_dim is None:
            return _width(model)
        if self.truncate_dim > (width := _width(model, truncate_dim=_UNCUT)):
            raise UsageError(f"--truncate-dim {self.truncate_dim} is more than the {width} dimensions of this model")
        model.truncate_dim = self.truncate_dim
        return self.truncate_dim

    def trained(self, folder: SentenceTransformersFolder, dimension: int) -> tuple[int, ...]:
        """Return the Matryoshka dimensions and the full `dimension`, largest first.

        Raises UsageError if a stated dimension is larger than the full one.
        """
        if not self.matryoshka:
            return folder.matryoshka(dimension)
        if (largest := max(self.matryoshka)) > dimension:
            raise UsageError(f"--dimensions {largest} is more than the {dimension} dimensions of this model's vectors")
        return descending(self.matryoshka, dimension)


def cuts(model: Any) -> bool:
    """Return True if truncate_dim shortens the vectors; sentence-transformers does not renormalise them."""
    return model.truncate_dim is not None and _width(model) < _width(model, truncate_dim=_UNCUT)


def _width(model: Any, **encode_options: Any) -> int:
    return int(model.encode(["dimension"], prompt="", show_progress_bar=False, **encode_options).shape[1])
