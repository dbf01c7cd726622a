"""SourceModel: the interface of a loaded checkpoint, for embedders and cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from embedship.bundle import ModelSource, ModelSpec
from embedship.codes import Vectors
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.tokens import Text


class SourceModel(Protocol):
    """A checkpoint in float32 on the CPU. `tokenizer_json` has no truncation and no padding."""

    @property
    def folder(self) -> SentenceTransformersFolder: ...

    @property
    def model(self) -> Any:
        """The torch module that contains `transformer`."""

    @property
    def pipeline(self) -> ModelSpec: ...

    @property
    def source(self) -> ModelSource: ...

    @property
    def tokenizer_json(self) -> str: ...

    @property
    def padding_side(self) -> str:
        """The side on which the checkpoint's own tokenizer pads: left or right."""

    @property
    def transformer(self) -> Any:
        """The transformers model, with its `config`."""

    def encode(self, texts: Sequence[Text]) -> Vectors:
        """Return the checkpoint's own (n, dim) float32 rows, as its library computes them."""

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the graph's inputs by name, as its library makes them: (n, length) tensors."""
