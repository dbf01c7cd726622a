"""PUT /documents, and GET and DELETE of one: what the index holds."""

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

# What can go wrong where no body is taken: one that comes is read all the same, and left.
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

# Deeper metadata is a mistake, and would take the stack of whatever walks through it.
_DEPTH = 32


def routes(service: ModelService) -> tuple[Route, ...]:
    documents = DocumentRoutes(service)
    return (
        Route("PUT", "/documents", "Put documents, and delete others, at once", documents.put,
              schemas.DocumentsRequest, schemas.DocumentsReply, ApiDialect.FLAT,
              tuple(dict.fromkeys((*_WRITING, *common.COMMON))), writes=True),
        Route("GET", "/documents/{id}", "A document as it is now", documents.get, gives=schemas.DocumentReply,
              errors=(*_BARE, NoIndex, DocumentNotFound, IndexUnavailable), slow=True),
        Route("DELETE", "/documents/{id}", "Delete a document", documents.delete, gives=schemas.DeletedReply,
              errors=tuple(dict.fromkeys((*_WRITING, *_BARE))), slow=True, writes=True),
    )  # fmt: skip


class DocumentRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def put(self, request: schemas.DocumentsRequest, call: RequestInfo) -> Response:
        self._check(request)
        documents = [Document(each.id, each.text, each.title, each.metadata) for each in request.documents]
        changed = await self._service.writes.apply_changes(documents, request.delete)
        done = changed.done
        reply = schemas.DocumentsReply(done.new, done.replaced, changed.unchanged, done.deleted, _truncated(changed))
        headers = common.truncation_headers(changed.encoded) if changed.encoded else ()
        return Response(common.encode(reply), headers=headers)

    async def get(self, _: None, call: RequestInfo) -> Response:
        document = await self._service.pipeline.shelf.fetch(call.rest)
        if document is None:
            raise DocumentNotFound(f"The index holds no document {call.rest!r}.")
        title = msgspec.UNSET if document.title is None else document.title
        reply = schemas.DocumentReply(document.id, document.text, title, document.metadata or msgspec.UNSET)
        return Response(common.encode(reply))

    async def delete(self, _: None, call: RequestInfo) -> Response:
        changed = await self._service.writes.apply_changes([], [call.rest])
        return Response(common.encode(schemas.DeletedReply(changed.done.deleted)))

    def _check(self, request: schemas.DocumentsRequest) -> None:
        limits = self._service.settings
        if not request.documents and not request.delete:
            raise Invalid("documents: give at least one, or ids in `delete`.", "documents")
        common.check_count(len(request.delete), "delete", limits)
        if request.documents:
            common.validate_texts([each.text for each in request.documents], "documents", limits)
        _check_ids([each.id for each in request.documents], request.delete)
        for place, each in enumerate(request.documents):
            if "\0" in each.id:
                raise Invalid(f"documents[{place}].id {NUL}.", "documents")
            if not each.text.strip():
                raise Invalid(f"documents[{place}].text: it is empty, and nothing could find it.", "documents")
            if _depth(each.metadata) > _DEPTH:
                raise Invalid(f"documents[{place}].metadata: it is nested more than {_DEPTH} deep.", "documents")


def _check_ids(put: Sequence[str], deleted: Sequence[str]) -> None:
    """One change a document: of two nobody could say which was meant."""
    places: dict[str, str] = {}
    for field, ids in (("documents", put), ("delete", deleted)):
        for place, id in enumerate(ids):
            where = f"{field}[{place}]"
            if first := places.get(id):
                raise Invalid(f"{where}: the id {id!r} is that of {first} already.", field)
            places[id] = where


def _depth(value: Any) -> int:
    """
    >>> _depth({"a": [{"b": 1}]}), _depth({})
    (3, 1)
    """
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _truncated(changed: WriteResult) -> list[schemas.Truncated]:
    if changed.encoded is None:
        return []
    pairs = zip(changed.embedded, changed.encoded.cut, strict=True)
    return [schemas.Truncated(document.id, cut) for document, cut in pairs if cut]
