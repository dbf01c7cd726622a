"""Write lock: one process at a time writes to an index. The operating system releases it when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from embedship.errors import UsageError
from embedship.serve.live.database import LOCK
from embedship.serve.search.backend import WriteRefused


class WriterLock:
    """The locked file INDEX.live/lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """Acquire the lock. Raises UsageError if another process has it."""
        path = folder / LOCK
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another process writes to {folder}: if it is a server, send the changes to it (PUT /documents), or "
                "wait until it ends"
            ) from None
        return cls(path, descriptor)

    def require(self) -> None:
        """Raise WriteRefused if the folder was removed or replaced after opening: the changes would be lost."""
        try:
            exists = os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            exists = False
        if not exists:
            raise WriteRefused(
                f"nothing was written: {self._path.parent} was removed while it was open. Open the index again", False
            )

    def close(self) -> None:
        os.close(self._descriptor)
