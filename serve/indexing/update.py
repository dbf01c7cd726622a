"""Applies a file of changes to an index, in batches. A killed run can be repeated: unchanged documents are skipped."""

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

BATCH = 512  # lines per transaction

Progress = Callable[[int], object]  # called with the number of lines just done


class UpdateCounts(msgspec.Struct, frozen=True):
    """The result of a file of changes."""

    done: ChangeCounts = ChangeCounts()
    unchanged: int = 0  # documents that the index already had with the same content
    truncated: int = 0  # embedded texts that are longer than the model's maximum length
    skipped: SkippedDocuments = SkippedDocuments()  # documents without text; the index keeps a document with that id


def count(lines: Path) -> int:
    """Return the number of lines. Reads the whole file, so that a bad line raises UsageError before any change."""
    return sum(1 for _ in jsonl.numbered_rows(lines, parse_line))


def update(index: WritableBackend, encoder: Encoder, lines: Path, progress: Progress) -> UpdateCounts:
    """Apply the changes in their order. If a batch has several changes to one document, only the last is applied.

    Raises WriteRefused if the disk rejects it, BackendUnavailable if a server cannot be reached, EngineError if the
    model fails, UsageError for a title that leaves no space for text in a chunk, or for a document that is too large
    for Milvus. Batches that were already written are kept.
    """
    manifest = index.manifest
    embedding = CorpusEmbedder(encoder, manifest.with_title, lambda *_: None)
    split = chunker_for_index(
        encoder.tokenizer, encoder.bundle.manifest.pipeline, manifest.chunking, manifest.with_title
    )
    total, skipped = UpdateCounts(), SkippedDocuments()
    for batch in _batches(jsonl.numbered_rows(lines, parse_line)):
        latest: dict[str, Document | DeleteDocument] = {}
        for change in batch:
            if isinstance(change, DeleteDocument) or has_text(change, manifest.with_title):
                latest[change.id] = change
            else:
                skipped = skipped.add(change.id)
        total = _add_counts(total, _write_batch(index, embedding, split, list(latest.values())))
        progress(len(batch))
    return msgspec.structs.replace(total, truncated=embedding.truncated.texts, skipped=skipped)


def parse_line(raw: bytes) -> Document | DeleteDocument:
    """Parse a line: a document as in a corpus, or {"id", "delete": true}. Raises ValueError."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    if fields.get("delete") is not True:
        return corpus.document(raw)
    id = fields.get("id", fields.get("_id"))
    if not isinstance(id, str) or not id or fields.keys() - {"id", "_id", "delete"}:
        raise ValueError('a line that deletes must be {"id", "delete": true} and have no other keys')
    return DeleteDocument(id)


def _write_batch(
    index: WritableBackend, embedding: CorpusEmbedder, split: Split | None, latest: list[Document | DeleteDocument]
) -> UpdateCounts:
    documents = [each for each in latest if isinstance(each, Document)]
    changed = index.changed_documents(documents)
    changes: list[Change] = [each for each in latest if isinstance(each, DeleteDocument)]
    if changed:
        chunked = ChunkedDocuments.from_documents(changed, split)
        rows = chunked.rows
        blocks = [embedding.documents(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        changes += chunked.puts(np.concatenate(blocks))
    return UpdateCounts(index.write(changes) if changes else ChangeCounts(), unchanged=len(documents) - len(changed))


def _add_counts(one: UpdateCounts, other: UpdateCounts) -> UpdateCounts:
    return UpdateCounts(one.done + other.done, one.unchanged + other.unchanged)


def _batches(rows: Iterator[tuple[int, Document | DeleteDocument]]) -> Iterator[list[Document | DeleteDocument]]:
    while batch := [change for _, change in islice(rows, BATCH)]:
        yield batch
