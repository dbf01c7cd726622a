"""One file, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from embedship.errors import EmbedshipError, UsageError


def check_writable(path: Path, force: bool) -> None:
    """Before the work begins: raise UsageError if `path` cannot be written, or is there and may not be replaced."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it first, or write elsewhere")
    if path.exists() and not force:
        raise UsageError(f"{path} exists: give --force to replace it, or write elsewhere")


def write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace `path` in one step; what was there before stays whole until then. `private`: for the owner's eyes only.

    Raises EmbedshipError if the disk does not take it.
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
        raise EmbedshipError(f"{path} could not be written: {error.strerror}; make room, or write elsewhere") from error


def _mask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
