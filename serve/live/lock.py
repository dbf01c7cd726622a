"""One process writes. The system gives the lock back when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from embedship.errors import UsageError
from embedship.serve.live.database import LOCK
from embedship.serve.search.backend import WriteRefused


class WriterLock:
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Raises UsageError where another process holds it."""
        path = folder / LOCK
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another process writes to {folder}: send the changes to it, if it is a server (PUT /documents), or "
                "wait until it ends"
            ) from None
        return cls(path, descriptor)

    def require(self) -> None:
        """Raise NotWritten if the folder was removed or replaced meanwhile: what is written to it would be lost."""
        try:
            there = os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            there = False
        if not there:
            raise WriteRefused(f"nothing was written: {self._path.parent} was removed while it was open", False)

    def close(self) -> None:
        os.close(self._descriptor)
