"""Resident memory of an engine, as batches grow and as their shapes vary.

Shapes come from calls of 1 to 24 real texts, drawn with a seed, which is what a server's requests look like.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import record

from embedship import Encoder, stdlib_docs
from embedship.batches import Batch
from embedship.engine.protocol import Engine

_PAGE = 4096
_CALLS = (1, 1, 2, 3, 4, 8, 16, 24)  # texts
_TEXTS = 3_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("variant")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with Encoder.open(options.bundle, options.variant) as encoder:
        found = {"loaded": resident()}
        _run(encoder.engine, 6, 256, 20)
        found["after 20 batches of 1,536 tokens"] = resident()
        _run(encoder.engine, 128, 256, 1)
        found["after one of 32,768 tokens"] = resident()
        _run(encoder.engine, 6, 256, 20)
        found["after 20 batches of 1,536 tokens more"] = resident()
        chance = random.Random(0)
        for texts in (_TEXTS, 2 * _TEXTS):
            _ragged(encoder, chance)
            found[f"after calls of 1 to 24 texts, {texts:,} in all"] = resident()
        result = record.circumstances() | {
            "benchmark": "memory",
            "variant": options.variant,
            "quick": not options.keep,
            "streams": encoder.engine.streams,
            "resident_mb": found,
        }
    for name, megabytes in found.items():
        print(f"{megabytes:8,.1f} MB  {name}")
    record.keep("memory", result)


def _run(engine: Engine, rows: int, width: int, times: int) -> None:
    ids = np.random.default_rng(0).integers(1000, 20000, (rows, width))
    for _ in range(times):
        engine.encode(Batch(ids, np.ones_like(ids)))


def _ragged(encoder: Encoder, chance: random.Random) -> None:
    texts = [each for entry in stdlib_docs.entries() for each in (entry.summary, entry.body)]
    done = 0
    while done < _TEXTS:
        call = chance.sample(texts, chance.choice(_CALLS))
        encoder.encode(call)
        done += len(call)


def resident() -> float:
    """MB."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6, 1)


if __name__ == "__main__":
    main()
