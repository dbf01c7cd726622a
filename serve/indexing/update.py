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
from embedship.serve.documents.changes import Change, ChangeCounts, ChunkedDocuments, DeleteDocument
from embedship.serve.documents.chunking import chunker_for_index
from embedship.serve.documents.corpus import SkippedDocuments, has_text
from embedship.serve.documents.store import Document, Split
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.search.backend import WritableBackend

BATCH = 512  # lines a transaction

Progress = Callable[[int], object]  # lines that were just done


class UpdateCounts(msgspec.Struct, frozen=True):
    """What came of a file."""

    done: ChangeCounts = ChangeCounts()
    unchanged: int = 0  # put as they were already
    truncated: int = 0  # embedded, and longer than the model reads
    skipped: SkippedDocuments = SkippedDocuments()  # documents without text: what the index holds under their ids stays


def count(lines: Path) -> int:
    """Read all of it before anything is changed. Raises UsageError naming the first bad line."""
    return sum(1 for _ in jsonl.rows(lines, parsed))


def update(index: WritableBackend, encoder: Encoder, lines: Path, progress: Progress) -> UpdateCounts:
    """Apply the changes in their order; of several of one document in a batch the last counts.

    Raises NotWritten if the disk refuses, Lost if a server is away, EngineError if the model fails, UsageError for a
    title that leaves no room in a chunk, or what Milvus is too small for: whole batches are kept.
    """
    found = index.manifest
    embedding = CorpusEmbedder(encoder, found.with_title, lambda *_: None)
    split = chunker_for_index(encoder.tokenizer, encoder.bundle.manifest.pipeline, found.chunking, found.with_title)
    total, skipped = UpdateCounts(), SkippedDocuments()
    for batch in _batches(jsonl.rows(lines, parsed)):
        wanted: dict[str, Document | DeleteDocument] = {}
        for change in batch:
            if isinstance(change, DeleteDocument) or has_text(change, found.with_title):
                wanted[change.id] = change
            else:
                skipped = skipped.add(change.id)
        total = _added(total, _written(index, embedding, split, list(wanted.values())))
        progress(len(batch))
    return msgspec.structs.replace(total, truncated=embedding.truncated.texts, skipped=skipped)


def parsed(raw: bytes) -> Document | DeleteDocument:
    """A line: a document as in a corpus, or {"id", "delete": true}. Raises ValueError."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    if fields.get("delete") is not True:
        return corpus.document(raw)
    id = fields.get("id", fields.get("_id"))
    if not isinstance(id, str) or not id or fields.keys() - {"id", "_id", "delete"}:
        raise ValueError('a line that deletes is {"id", "delete": true} and nothing else')
    return DeleteDocument(id)


def _written(
    index: WritableBackend, embedding: CorpusEmbedder, split: Split | None, wanted: list[Document | DeleteDocument]
) -> UpdateCounts:
    documents = [each for each in wanted if isinstance(each, Document)]
    changed = index.changed_documents(documents)
    changes: list[Change] = [each for each in wanted if isinstance(each, DeleteDocument)]
    if changed:
        pieces = ChunkedDocuments.of(changed, split)
        rows = pieces.rows
        blocks = [embedding.documents(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        changes += pieces.puts(np.concatenate(blocks))
    return UpdateCounts(index.write(changes) if changes else ChangeCounts(), unchanged=len(documents) - len(changed))


def _added(one: UpdateCounts, other: UpdateCounts) -> UpdateCounts:
    return UpdateCounts(one.done + other.done, one.unchanged + other.unchanged)


def _batches(rows: Iterator[tuple[int, Document | DeleteDocument]]) -> Iterator[list[Document | DeleteDocument]]:
    while batch := [change for _, change in islice(rows, BATCH)]:
        yield batch
