"""Who makes the float32 graph: embedship itself, or Optimum. Everything after it, the gate above all, is the same."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command shows its help without loading it
    from embedship.export.checkpoint.protocol import SourceModel


class GraphConverter(StrEnum):
    EMBEDSHIP = "embedship"
    OPTIMUM = "optimum"

    @property
    def packages(self) -> tuple[str, ...]:
        """What it needs besides what every export needs."""
        return ("optimum-onnx",) if self is GraphConverter.OPTIMUM else ()

    def require(self) -> None:
        """Raise MissingExtra or UsageError, before anything slow begins, where it cannot run."""
        if self is GraphConverter.OPTIMUM:
            from embedship.export.variants import optimum

            optimum.require()

    def write(self, checkpoint: SourceModel, path: Path) -> None:
        """Write the whole pipeline in float32, with the outputs that its task has."""
        if self is GraphConverter.OPTIMUM:
            from embedship.export.checkpoint.embedder import embedding
            from embedship.export.variants import optimum

            optimum.write(embedding(checkpoint), path)
        else:
            from embedship.export.variants import torch_graph

            torch_graph.write(checkpoint, path)
