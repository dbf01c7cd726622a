"""Types of the routes that read and change documents, and that receive feedback on searches."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embedship.serve.schemas.embeddings import Strict

DocumentId = Annotated[str, Meta(min_length=1, max_length=1024)]


class NewDocument(Strict, frozen=True):
    """A document, as in the input of `embedship index`. Filters apply to `metadata`."""

    id: DocumentId
    text: Annotated[str, Meta(min_length=1)]
    title: str | None = None
    metadata: dict[str, Any] | None = None


class DocumentsRequest(Strict, frozen=True):
    """Documents to add or replace, by id, and ids to delete. Either all changes are made, or none."""

    documents: list[NewDocument] | None = None
    delete: list[DocumentId] | None = None


class Truncated(msgspec.Struct, frozen=True):
    """A document that is too long for the model, and the number of truncated tokens."""

    id: str
    tokens: int


class DocumentsReply(msgspec.Struct, frozen=True):
    """Counts of the changes, which are durable and visible to every following search.

    `unchanged` documents were identical before.
    """

    new: int
    replaced: int
    unchanged: int
    deleted: int
    truncated: list[Truncated]


class DeletedReply(msgspec.Struct, frozen=True):
    """Number of deleted documents: 0 if there was none with this id. The request can safely be repeated."""

    deleted: int


class DocumentReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The current version of a document. `title` and `metadata` are present if the document has them."""

    id: str
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class FeedbackRequest(Strict, frozen=True):
    """Relevant documents of a search, which is given by its X-Request-Id, or by its query.

    With `query`, `hits` are the ids that the search returned, best first; without `hits` the query is searched again.
    If a request contained several queries, `result` is the index of the judged one, from 0.
    """

    relevant: Annotated[list[DocumentId], Meta(min_length=1, max_length=100)]
    request_id: Annotated[str, Meta(max_length=128)] | None = None
    result: Annotated[int, Meta(ge=0)] | None = 0
    query: Annotated[str, Meta(min_length=1)] | None = None
    hits: Annotated[list[DocumentId], Meta(max_length=1000)] | None = None


class FeedbackReply(msgspec.Struct, frozen=True):
    """Recall@10 of this search: `found` of the `expected` documents (at most ten) are among its first ten hits."""

    found: int
    expected: int
    recall: float
