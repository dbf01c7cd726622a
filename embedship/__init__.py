"""Ship an embedding model: a checkpoint becomes a verified bundle, a search service, and live quality metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from embedship.version import __version__ as __version__

if TYPE_CHECKING:
    from embedship.bundle import Bundle as Bundle
    from embedship.encoder import Encoder as Encoder

__all__ = ["Bundle", "Encoder"]

# From 1.29 on, ONNX Runtime reports models, devices and inferences to Microsoft, unless this is set before it is loaded
# (microsoft/onnxruntime #27379). Whoever sets it otherwise is heard.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> object:
    """`from embedship import Encoder` without loading a tokenizer for those who only read a version."""
    if name == "Encoder":
        from embedship.encoder import Encoder

        return Encoder
    if name == "Bundle":
        from embedship.bundle import Bundle

        return Bundle
    raise AttributeError(f"module 'embedship' has no attribute {name!r}")
