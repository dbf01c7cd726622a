"""Suppresses output, usage counters and network requests of third-party libraries."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

# The user's network settings, before stay_offline() changes them.
_OFFLINE = os.environ.get("HF_HUB_OFFLINE")
_LOGGERS = ("sentence_transformers", "transformers", "nncf", "onnxruntime", "torch.onnx", "onnxscript")


def stay_offline() -> None:
    """Disable model hubs and usage counters: everything is read from a local folder.

    A checkpoint given by its hub id is fetched by another process (hub.py). The libraries read these settings when they
    are imported, so call this first. `openvino` and `nncf` report every import and quantisation to Google Analytics
    unless `openvino_telemetry` cannot be imported; then they use their own stubs.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def original_environment() -> dict[str, str]:
    """Return the environment without stay_offline(), for the process that fetches a checkpoint by its id."""
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return variables if _OFFLINE is None else {**variables, "HF_HUB_OFFLINE": _OFFLINE}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Set the loggers of the libraries to ERROR and discard what they print to stdout, which is reserved for results.

    The root logger is restored afterwards, because some libraries call logging.basicConfig when they are imported.
    """
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in _LOGGERS]
    level, handlers = root.level, list(root.handlers)
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, own in zip(loggers, before, strict=True):
            logger.setLevel(own)
        root.setLevel(level)
        root.handlers[:] = handlers


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide transformers' "Loading weights" bar, which appears even without a terminal."""
    from transformers.utils import logging as hf

    shown = hf.is_progress_bar_enabled()
    hf.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf.enable_progress_bar()


@contextlib.contextmanager
def ignoring(*expected: tuple[type[Warning], str]) -> Iterator[None]:
    """Ignore only the given warnings, by category and beginning of the message."""
    with warnings.catch_warnings():
        for category, message in expected:
            warnings.filterwarnings("ignore", message, category)
        yield
