"""Ship an embedding model: a checkpoint becomes a verified bundle, a search service, and live quality metrics.

__main__.py
batches.py         Tokens -> batches
codes.py           Vector codes
device.py          What a forward pass runs on, written the way people write it
distributions.py   Distributions that install the same module over each other
encoder.py         The local, synchronous door
errors.py          What can go wrong, and the exit code it ends the command with
golden.py          Golden texts
golden_texts.py    The golden texts of a bundle
hardware.py        What this process may use
likeness.py        How alike two answers of a model are, on one scale for both tasks
packing.py         Vectors -> rows in one of the codes that a bundle froze
queries.py         A log of queries
ranking.py         Scores -> the best k, with one order for all
shapes.py          The shape certificate
stdlib_docs.py     Real text that every machine has
timing.py          Timed rounds
tokens.py          Text -> Tokens, with the bundle's own truncation and prompts, and an account of what was cut off
tune.py            How fast is each variant on this machine, through the encoder, on real texts? Run by export
variant_choice.py  Which variant runs where nobody names one
version.py         The version of the installed package
bundle/            The bundle
charts/
commands/
engine/            Batch -> Vectors
files/
transfer/          Bundles over the wire
"""

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
