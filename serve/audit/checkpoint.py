"""Exports a checkpoint to a temporary bundle, in another process: code in serve/ never loads torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedship.errors import EmbedshipError, EngineError, UsageError

# The reference is the plain float32 variant. The export compares its vectors with those of the checkpoint.
_VARIANTS = "onnx"


@contextmanager
def exported(checkpoint: str) -> Iterator[Path]:
    """Yield the folder of a bundle of the checkpoint (a folder or a hub id). It is removed at the end.

    Raises EmbedshipError with the message and the exit code of `embedship export`.
    """
    with tempfile.TemporaryDirectory(prefix="embedship-audit-") as folder:
        target = Path(folder, "bundle")
        command = [sys.executable, "-P", "-m", "embedship", "export", checkpoint, "--out", str(target)]
        options = ["--variants", _VARIANTS, "--json", "--quiet"]
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise _failure(done.stdout, done.returncode)
        yield target


def _failure(output: str, code: int) -> EmbedshipError:
    lines = output.strip().splitlines()
    try:
        message = str(json.loads(lines[-1])["error"])
    except (IndexError, ValueError, KeyError, TypeError):
        message = f"embedship export ended with {code}"
    kind = UsageError if code == UsageError.exit_code else EngineError
    return kind(f"the checkpoint cannot be exported, so it cannot judge a server: {message}")
