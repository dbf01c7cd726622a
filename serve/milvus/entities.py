"""Documents <-> the entities of a collection."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.serve.documents.store import Document
from embedship.serve.live.changes import halves
from embedship.serve.milvus import expressions
from embedship.serve.milvus.collection_metadata import LONGEST, LONGEST_ID, MOST_FACTS, CollectionMetadata

SHOWN = ("id", "content", "title_length", "metadata")


def row_of(id: str) -> int:
    """The number of a document: 63 bits of a hash of its id."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") >> 1


def entity(card: CollectionMetadata, document: Document, vector: Vectors) -> dict[str, Any]:
    """As Milvus takes it; `vector` is (dim,) float32. Raises UsageError for what Milvus cannot keep."""
    content = document.text if document.title is None else f"{document.title}\n{document.text}"
    facts, scalars = expressions.facts(document.metadata), expressions.scalars(document.metadata)
    _require(document.id, "id", len(document.id.encode()), LONGEST_ID, "bytes")
    _require(document.id, "title and text", len(content.encode()), LONGEST, "bytes")
    metadata = msgspec.json.encode(document.metadata)
    _require(document.id, "metadata", len(metadata), LONGEST, "bytes")
    _require(document.id, "metadata", len(msgspec.json.encode(scalars)), LONGEST, "bytes")
    _require(document.id, "metadata", len(facts), MOST_FACTS, "names and values")
    values = halves(vector).astype("float32").tolist()
    return {
        "row": row_of(document.id),
        "id": document.id,
        "content": content,
        "title_length": -1 if document.title is None else len(document.title),
        "metadata": metadata.decode(),
        "facts": facts,
        "scalars": scalars,
        **dict.fromkeys(card.fields, values),
    }


def document(entity: Mapping[str, Any]) -> Document:
    content, length = entity["content"], entity["title_length"]
    title, text = (None, content) if length < 0 else (content[:length], content[length + 1 :])
    return Document(entity["id"], text, title, msgspec.json.decode(entity["metadata"]))


def _require(id: str, what: str, size: int, most: int, unit: str) -> None:
    if size > most:
        raise UsageError(
            f"document {id[:100]!r}: its {what} have {size:,} {unit}, and Milvus keeps {most:,}: shorten or split it"
        )
