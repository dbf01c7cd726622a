"""Index trial: opens an index and searches it once in a child process, before a running server opens it.

FAISS and SQLite parse its files in C and C++. A file that makes them crash must not crash the running server.

    python -m embedship.serve.service.index_trial BUNDLE INDEX
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from embedship.bundle import Bundle
from embedship.errors import EmbedshipError, UnsafeError
from embedship.serve import api_keys
from embedship.serve.live.backend import FolderBackend
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS, RECALL_K

# Enough to hash and read 100 GB at 200 MB per second.
_SECONDS = 900.0


def require_readable(bundle: Path, index: Path, seconds: float = _SECONDS) -> None:
    """Raise UnsafeError if a child process crashes or does not end while it opens this index.

    An index that the child process rejects is not an error here: opening it in the server reports the reason.
    """
    command = [sys.executable, "-P", "-m", "embedship.serve.service.index_trial", str(bundle), str(index)]
    try:
        done = subprocess.run(
            command,
            env=api_keys.without_secrets(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsafeError(
            f"{index} could not be read within {seconds:g} s in a child process: build the index again"
        ) from None
    if done.returncode < 0:
        raise UnsafeError(
            f"{index} cannot be read: the child process that read it was killed by signal {-done.returncode}: build "
            "the index again"
        )


def _try(bundle: Path, index: Path) -> None:
    opened = Bundle.open(bundle)
    with closing(FolderBackend.open(index, opened, writable=False)) as backend:
        dimension = backend.manifest.dimension
        backend.find(np.full((1, dimension), dimension**-0.5, dtype=np.float32), RECALL_K, DEFAULT_SEARCH_PARAMS)


if __name__ == "__main__":
    try:
        _try(*map(Path, sys.argv[1:]))
    except EmbedshipError as error:
        sys.exit(error.exit_code)
