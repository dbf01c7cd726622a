"""Entities: converts documents to entities of a collection and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.serve.documents.store import Document
from embedship.serve.live.changes import to_half_precision
from embedship.serve.milvus import expressions
from embedship.serve.milvus.collection_metadata import LONGEST, LONGEST_ID, MOST_FACTS, CollectionMetadata

SHOWN = ("id", "content", "title_length", "metadata")


def row_of(id: str) -> int:
    """Return the primary key of a document: 63 bits of a hash of its id."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") >> 1


def entity(metadata: CollectionMetadata, document: Document, vector: Vectors) -> dict[str, Any]:
    """Convert a document and its vector, (dim,) float32. Raises UsageError if it exceeds a limit of Milvus."""
    content = document.text if document.title is None else f"{document.title}\n{document.text}"
    facts, scalars = expressions.facts(document.metadata), expressions.scalars(document.metadata)
    _require_size(document.id, "id", len(document.id.encode()), LONGEST_ID, "bytes")
    _require_size(document.id, "title and text", len(content.encode()), LONGEST, "bytes")
    document_metadata = msgspec.json.encode(document.metadata)
    _require_size(document.id, "metadata", len(document_metadata), LONGEST, "bytes")
    _require_size(document.id, "metadata", len(msgspec.json.encode(scalars)), LONGEST, "bytes")
    _require_size(document.id, "metadata", len(facts), MOST_FACTS, "names and values")
    values = to_half_precision(vector).astype("float32").tolist()
    return {
        "row": row_of(document.id),
        "id": document.id,
        "content": content,
        "title_length": -1 if document.title is None else len(document.title),
        "metadata": document_metadata.decode(),
        "facts": facts,
        "scalars": scalars,
        **dict.fromkeys(metadata.fields, values),
    }


def document(entity: Mapping[str, Any]) -> Document:
    """Convert an entity back to its document."""
    content, length = entity["content"], entity["title_length"]
    title, text = (None, content) if length < 0 else (content[:length], content[length + 1 :])
    return Document(entity["id"], text, title, msgspec.json.decode(entity["metadata"]))


def _require_size(id: str, name: str, size: int, limit: int, unit: str) -> None:
    if size > limit:
        raise UsageError(
            f"document {id[:100]!r}: size of {name} is {size:,} {unit}, "
            f"and Milvus allows {limit:,}. Shorten or split it"
        )
