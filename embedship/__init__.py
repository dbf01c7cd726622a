"""Embedship ships an embedding model: from a checkpoint to a verified bundle, a search service and live metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from embedship.version import __version__ as __version__

if TYPE_CHECKING:
    from embedship.bundle import Bundle as Bundle
    from embedship.encoder import Encoder as Encoder

__all__ = ["Bundle", "Encoder"]

# Since 1.29, ONNX Runtime reports models, devices and inferences to Microsoft unless this variable is set before it is
# imported (microsoft/onnxruntime #27379). A value set by the user is respected.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> object:
    """Import Encoder and Bundle on first use, so that reading the version does not load a tokenizer."""
    if name == "Encoder":
        from embedship.encoder import Encoder

        return Encoder
    if name == "Bundle":
        from embedship.bundle import Bundle

        return Bundle
    raise AttributeError(f"module 'embedship' has no attribute {name!r}")
