"""Atomic file: written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from embedship.errors import EmbedshipError, UsageError


def check_writable(path: Path, force: bool) -> None:
    """Raise UsageError if `path` cannot be written, or exists and may not be replaced. Call it before slow work."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: make it first, or write to another place")
    if path.exists() and not force:
        raise UsageError(f"{path} exists: give --force to replace it, or write to another file")


def write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace `path` in one step. The previous file stays complete until then. `private`: only the owner may read it.

    Raises EmbedshipError if the file cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o600 if private else 0o666 & ~_mask())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise EmbedshipError(
            f"{path} could not be written: {error.strerror}; free some space, or write to another place"
        ) from error


def _mask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
