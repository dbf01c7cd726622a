"""Routes for the documents of the index: PUT /documents, and GET and DELETE of /documents/{id}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from embedship.serve import schemas
from embedship.serve.documents.store import NUL, Document
from embedship.serve.errors import (
    ApiDialect,
    ClientDeadlineExceeded,
    ClientDisconnected,
    DiskFull,
    DocumentNotFound,
    EngineFailed,
    Forbidden,
    IndexUnavailable,
    Internal,
    Invalid,
    NoIndex,
    ReadOnly,
    ServerDeadlineExceeded,
    TooLarge,
    Unauthorised,
    WriteFailed,
)
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.service.document_writer import WriteResult
from embedship.serve.service.service import ModelService

_WRITING = (Unauthorised, Forbidden, ReadOnly, NoIndex, DiskFull, WriteFailed, IndexUnavailable)

# Errors of routes without a request body. If a client sends a body, it is read and ignored.
_BARE = (
    Unauthorised,
    Forbidden,
    Invalid,
    TooLarge,
    ClientDisconnected,
    ClientDeadlineExceeded,
    ServerDeadlineExceeded,
    EngineFailed,
    Internal,
)

# Deeper metadata is a mistake, and could overflow the stack of code that traverses it.
_DEPTH = 32


def routes(service: ModelService) -> tuple[Route, ...]:
    documents = DocumentRoutes(service)
    return (
        Route("PUT", "/documents", "Add, replace and delete documents in one transaction", documents.put,
              schemas.DocumentsRequest, schemas.DocumentsReply, ApiDialect.FLAT,
              tuple(dict.fromkeys((*_WRITING, *common.COMMON))), writes=True),
        Route("GET", "/documents/{id}", "Get a document", documents.get, response_type=schemas.DocumentReply,
              errors=(*_BARE, NoIndex, DocumentNotFound, IndexUnavailable), slow=True),
        Route("DELETE", "/documents/{id}", "Delete a document", documents.delete, response_type=schemas.DeletedReply,
              errors=tuple(dict.fromkeys((*_WRITING, *_BARE))), slow=True, writes=True),
    )  # fmt: skip


class DocumentRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def put(self, request: schemas.DocumentsRequest, call: RequestInfo) -> Response:
        added, deleted = request.documents or [], request.delete or []
        self._check(added, deleted)
        documents = [Document(each.id, each.text, each.title, each.metadata or {}) for each in added]
        result = await self._service.writer.apply_changes(documents, deleted)
        counts = result.done
        reply = schemas.DocumentsReply(
            counts.new, counts.replaced, result.unchanged, counts.deleted, _truncated(result)
        )
        headers = common.truncation_headers(result.encoded) if result.encoded else ()
        return Response(common.encode(reply), headers=headers)

    async def get(self, _: None, call: RequestInfo) -> Response:
        document = await self._service.pipeline.collection.fetch(call.path_parameter)
        if document is None:
            raise DocumentNotFound(f"The index contains no document {call.path_parameter!r}.")
        title = msgspec.UNSET if document.title is None else document.title
        reply = schemas.DocumentReply(document.id, document.text, title, document.metadata or msgspec.UNSET)
        return Response(common.encode(reply))

    async def delete(self, _: None, call: RequestInfo) -> Response:
        result = await self._service.writer.apply_changes([], [call.path_parameter])
        return Response(common.encode(schemas.DeletedReply(result.done.deleted)))

    def _check(self, added: Sequence[schemas.NewDocument], deleted: Sequence[str]) -> None:
        limits = self._service.settings
        if not added and not deleted:
            raise Invalid("documents: give at least one document, or ids in `delete`.", "documents")
        common.check_count(len(deleted), "delete", limits)
        if added:
            common.validate_texts([each.text for each in added], "documents", limits)
            common.validate_texts([each.title or "" for each in added], "documents.title", limits)
        _check_ids([each.id for each in added], deleted)
        for place, each in enumerate(added):
            if "\0" in each.id:
                raise Invalid(f"documents[{place}].id {NUL}.", "documents")
            if not each.text.strip():
                raise Invalid(f"documents[{place}].text: it is empty, so no search could find it.", "documents")
            if _depth(each.metadata) > _DEPTH:
                raise Invalid(f"documents[{place}].metadata: it is nested more than {_DEPTH} levels deep.", "documents")
            if (size := len(msgspec.json.encode(each.metadata))) > limits.max_characters:
                raise TooLarge(
                    f"documents[{place}].metadata: it has {size} bytes; the maximum is {limits.max_characters}.",
                    "documents",
                )


def _check_ids(put: Sequence[str], deleted: Sequence[str]) -> None:
    """Raise Invalid if an id occurs twice: each document can have only one change per request."""
    places: dict[str, str] = {}
    for field, ids in (("documents", put), ("delete", deleted)):
        for place, id in enumerate(ids):
            where = f"{field}[{place}]"
            if first := places.get(id):
                raise Invalid(f"{where}: the id {id!r} is already used by {first}.", field)
            places[id] = where


def _depth(value: Any) -> int:
    """Return how deep lists and dicts are nested.

    >>> _depth({"a": [{"b": 1}]}), _depth({})
    (3, 1)
    """
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _truncated(result: WriteResult) -> list[schemas.Truncated]:
    if result.encoded is None:
        return []
    pairs = zip(result.embedded, result.encoded.cut, strict=True)
    return [schemas.Truncated(document.id, cut) for document, cut in pairs if cut]
