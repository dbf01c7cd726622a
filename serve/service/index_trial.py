"""An index opened and searched once, in a process of its own, before a running server opens it.

FAISS and SQLite parse its files, in C and C++: what makes them crash must not end the server that answers.

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

# Hashing and reading 100 GB at 200 MB a second take less.
_SECONDS = 900.0


def demand_readable(bundle: Path, index: Path, seconds: float = _SECONDS) -> None:
    """Raise UnsafeError if the process that opens this index dies of it, or does not end.

    An index that it refuses is no matter here: whoever opens it next says why.
    """
    command = [sys.executable, "-P", "-m", "embedship.serve.service.index_trial", str(bundle), str(index)]
    try:
        done = subprocess.run(
            command,
            env=api_keys.without(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsafeError(
            f"{index} was not read within {seconds:g} s, in a process of its own: build it again"
        ) from None
    if done.returncode < 0:
        raise UnsafeError(
            f"{index} cannot be read: the process that tried it was killed by signal {-done.returncode}: build it again"
        )


def _try(bundle: Path, index: Path) -> None:
    opened = Bundle.open(bundle)
    with closing(FolderBackend.open(index, opened, writable=False)) as store:
        dimension = store.manifest.dimension
        store.find(np.full((1, dimension), dimension**-0.5, dtype=np.float32), RECALL_K, DEFAULT_SEARCH_PARAMS)


if __name__ == "__main__":
    try:
        _try(*map(Path, sys.argv[1:]))
    except EmbedshipError as error:
        sys.exit(error.exit_code)
