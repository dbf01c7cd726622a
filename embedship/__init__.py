"""Embedship ships an embedding model: from a checkpoint to a verified bundle, a search service and live metrics.

This package has what the other folders share: bundles, engines, the encoder, and the command line.

__main__.py        Runs the command line (`python -m embedship`)
batches.py         Groups token ids into batches of few shapes
codes.py           Vector codes: truncation, float16, int8, sign bits
device.py          Device addresses: cpu, cuda:0, tensorrt:0, gpu:0
distributions.py   Distributions that install the same module
encoder.py         Encoder: returns the vectors of texts, computed in this process
errors.py          Errors and their exit codes
golden.py          Golden check: does a variant still give the vectors of the export?
golden_texts.py    Golden texts: probe texts with token ids and vectors
hardware.py        Instruction sets, cores and streams that this process may use
likeness.py        Likeness of two vectors or scores
packing.py         Encodes vectors in one of the bundle's codes
queries.py         Query log: texts, sessions, times, recalls
ranking.py         Selects the k best rows by score
stdlib_docs.py     Real texts that every machine has: Python's documentation
terminal.py        Terminal output: results, progress, warnings, and how much of them
timing.py          Times several variants in turn
tokens.py          Tokenizer: texts to token ids
tune.py            Measures the variants on this machine
variant_choice.py  Decides which variant runs if none is named
version.py         The installed version
bundle/            The bundle: folder, manifest, signatures
charts/            Charts and tables of the HTML reports
commands/          The command line, and the commands that need no other folder
engine/            Runs a model with ONNX Runtime or OpenVINO
files/             Atomic files and folders, sealed folders, JSON Lines, qrels
shapes/            Shape certificates: batch shapes with wrong vectors are not used
transfer/          Push and pull of bundles
"""

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
