"""A process that writes to a live index until it is killed: `python writer.py BUNDLE VECTORS.npy`.

Imports take a second, so one process imports and forks a writer for each line `INDEX SEED [STEP]` on its stdin: the
writer compacts after every twentieth transaction, kills itself at the named step of its first compaction, and says
`done N` once transaction N is acknowledged. It writes `ended` when the writer is dead.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.serve.documents.changes import Change, DeleteDocument, PutDocument
from embedship.serve.documents.store import Chunk, Document
from embedship.serve.live.index import CompactionStep, MutableIndex

TRANSACTIONS = 400
MOST_CHUNKS = 3
COMPACT_EACH = 10


def lines(documents: Sequence[Document]) -> list[list[Document]]:
    """A Split that makes each line a chunk."""
    return [
        [
            Document(each.id, found[0], each.title, each.metadata, Chunk(number, *found.span()))
            for number, found in enumerate(re.finditer(".+", each.text))
        ]
        for each in documents
    ]


def text(chunk: Document) -> int:
    """Which text's vector it has: `word17 ...` that of text 17."""
    found = re.match(r"word(\d+)", chunk.text)
    return int(found[1]) if found else int(chunk.metadata["n"])


def transaction(seed: int, number: int, vectors: Vectors, cut: bool = False) -> list[Change]:
    """One to four changes; the same whoever asks. Documents that are cut have up to MOST_CHUNKS chunks."""
    random = np.random.default_rng((seed, number))
    changes: list[Change] = []
    for _ in range(random.integers(1, 5)):
        id, size = f"d{random.integers(0, 90)}", int(random.integers(1, MOST_CHUNKS + 1)) if cut else 1
        texts = random.choice(len(vectors), size, replace=False).tolist()
        if random.random() < 0.4:
            changes.append(DeleteDocument(id))
        else:
            whole = "\n".join(f"word{text} of{seed}x{number}" for text in texts)
            document = Document(id, whole, None, {"n": texts[0]})
            chunks = lines([document])[0] if cut else [document]
            changes.append(PutDocument(document, chunks, vectors[texts]))
    return changes


def write(index: Path, seed: int, step: str, bundle: Bundle, vectors: Vectors) -> None:
    def killed(here: CompactionStep) -> None:
        if here == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with MutableIndex.open(index, bundle, writable=True) as live:
        for number in range(TRANSACTIONS):
            live.write(transaction(seed, number, vectors, live.manifest.chunking is not None))
            os.write(1, b"done %d\n" % number)
            if number % COMPACT_EACH == COMPACT_EACH - 1:
                live.compact(killed)


def main() -> None:
    bundle, vectors = Bundle.open(Path(sys.argv[1])), np.load(sys.argv[2])
    for line in sys.stdin:
        index, seed, *step = line.split("\t")
        child = os.fork()
        if not child:
            write(Path(index), int(seed), step[0].strip() if step else "", bundle, vectors)
            os._exit(0)
        os.write(1, b"pid %d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
