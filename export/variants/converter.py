"""GraphConverter: the tool that makes the float32 graph, embedship itself or Optimum. All later steps are the same."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # keeps `embedship export --help` fast
    from embedship.export.checkpoint.protocol import SourceModel


class GraphConverter(StrEnum):
    EMBEDSHIP = "embedship"
    OPTIMUM = "optimum"

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages needed in addition to those of every export."""
        return ("optimum-onnx",) if self is GraphConverter.OPTIMUM else ()

    def require(self) -> None:
        """Raise MissingExtra or UsageError if the converter cannot run. Called before anything slow begins."""
        if self is GraphConverter.OPTIMUM:
            from embedship.export.variants import optimum

            optimum.require()

    def write(self, checkpoint: SourceModel, path: Path) -> None:
        """Write the complete pipeline in float32, with the outputs of its task."""
        if self is GraphConverter.OPTIMUM:
            from embedship.export.checkpoint.embedder import embedding
            from embedship.export.variants import optimum

            optimum.write(embedding(checkpoint), path)
        else:
            from embedship.export.variants import torch_graph

            torch_graph.write(checkpoint, path)
