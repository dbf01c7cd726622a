"""What an export asks of a loaded checkpoint, whichever its task: `Checkpoint` embeds texts, `Cross` scores pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from embedship.bundle import ModelSource, ModelSpec
from embedship.codes import Vectors
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.tokens import Text


class SourceModel(Protocol):
    """The model is in float32 on the CPU; `tokenizer_json` has no truncation and no padding."""

    @property
    def folder(self) -> SentenceTransformersFolder: ...

    @property
    def model(self) -> Any:
        """The torch module that `transformer` is all of, or a part."""

    @property
    def pipeline(self) -> ModelSpec: ...

    @property
    def source(self) -> ModelSource: ...

    @property
    def tokenizer_json(self) -> str: ...

    @property
    def transformer(self) -> Any:
        """The model of transformers, with its `config`."""

    def encode(self, texts: Sequence[Text]) -> Vectors:
        """The checkpoint's own (n, dim) float32 rows, as its library computes them."""

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The inputs of the graph by name, tensors of (n, length), as its library makes them."""
