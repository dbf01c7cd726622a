"""A file of changes into an index, in batches: killed at any point, the same command goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embedship.encoder import Encoder
from embedship.files import jsonl
from embedship.serve.documents import corpus
from embedship.serve.documents.changes import Change, Delete, Done, Pieces
from embedship.serve.documents.chunking import split_of
from embedship.serve.documents.corpus import Skipped, has_text
from embedship.serve.documents.store import Document, Split
from embedship.serve.indexing.embedding import Embedding
from embedship.serve.search.backend import Writable

BATCH = 512  # lines a transaction

Progress = Callable[[int], object]  # lines that were just done


class Updated(msgspec.Struct, frozen=True):
    """What came of a file."""

    done: Done = Done()
    unchanged: int = 0  # put as they were already
    truncated: int = 0  # embedded, and longer than the model reads
    skipped: Skipped = Skipped()  # documents without text: what the index holds under their ids stays


def count(lines: Path) -> int:
    """Read all of it before anything is changed. Raises UsageError naming the first bad line."""
    return sum(1 for _ in jsonl.rows(lines, parsed))


def update(index: Writable, encoder: Encoder, lines: Path, progress: Progress) -> Updated:
    """Apply the changes in their order; of several of one document in a batch the last counts.

    Raises NotWritten if the disk refuses, Lost if a server is away, EngineError if the model fails, UsageError for a
    title that leaves no room in a chunk, or what Milvus is too small for: whole batches are kept.
    """
    found = index.manifest
    embedding = Embedding(encoder, found.with_title, lambda *_: None)
    split = split_of(encoder.tokenizer, encoder.bundle.manifest.pipeline, found.chunking, found.with_title)
    total, skipped = Updated(), Skipped()
    for batch in _batches(jsonl.rows(lines, parsed)):
        wanted: dict[str, Document | Delete] = {}
        for change in batch:
            if isinstance(change, Delete) or has_text(change, found.with_title):
                wanted[change.id] = change
            else:
                skipped = skipped.add(change.id)
        total = _added(total, _written(index, embedding, split, list(wanted.values())))
        progress(len(batch))
    return msgspec.structs.replace(total, truncated=embedding.truncated.texts, skipped=skipped)


def parsed(raw: bytes) -> Document | Delete:
    """A line: a document as in a corpus, or {"id", "delete": true}. Raises ValueError."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    if fields.get("delete") is not True:
        return corpus.document(raw)
    id = fields.get("id", fields.get("_id"))
    if not isinstance(id, str) or not id or fields.keys() - {"id", "_id", "delete"}:
        raise ValueError('a line that deletes is {"id", "delete": true} and nothing else')
    return Delete(id)


def _written(index: Writable, embedding: Embedding, split: Split | None, wanted: list[Document | Delete]) -> Updated:
    documents = [each for each in wanted if isinstance(each, Document)]
    changed = index.differing(documents)
    changes: list[Change] = [each for each in wanted if isinstance(each, Delete)]
    if changed:
        pieces = Pieces.of(changed, split)
        rows = pieces.rows
        blocks = [embedding.documents(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        changes += pieces.puts(np.concatenate(blocks))
    return Updated(index.write(changes) if changes else Done(), unchanged=len(documents) - len(changed))


def _added(one: Updated, other: Updated) -> Updated:
    return Updated(one.done + other.done, one.unchanged + other.unchanged)


def _batches(rows: Iterator[tuple[int, Document | Delete]]) -> Iterator[list[Document | Delete]]:
    while batch := [change for _, change in islice(rows, BATCH)]:
        yield batch
