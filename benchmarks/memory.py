"""Resident memory of an engine, as batches grow and as their shapes vary: python benchmarks/memory.py BUNDLE VARIANT"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from embedship import Bundle
from embedship.engine import open_engine
from embedship.plan import Batch

_PAGE = 4096


def main(folder: str, variant: str) -> None:
    engine = open_engine(Bundle.open(folder), variant)
    found = {"loaded": resident()}
    _run(engine, 6, 256, 20)
    found["after 20 batches of 1,536 tokens"] = resident()
    _run(engine, 128, 256, 1)
    found["after one of 32,768 tokens"] = resident()
    _run(engine, 6, 256, 20)
    found["after 20 batches of 1,536 tokens more"] = resident()
    for width in range(1, 257):
        _run(engine, 1 + width % 5, width, 1)
    found["after 256 shapes"] = resident()
    for width in range(1, 257):
        _run(engine, 6 + width % 5, width, 1)
    found["after 256 shapes more"] = resident()
    print(json.dumps(found))


def _run(engine: object, rows: int, width: int, times: int) -> None:
    ids = np.random.default_rng(0).integers(1000, 20000, (rows, width))
    for _ in range(times):
        engine.encode(Batch(ids, np.ones_like(ids)))  # type: ignore[attr-defined]


def resident() -> float:
    """MB."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
