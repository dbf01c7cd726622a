"""Routes that change a running server. They require an admin key; without admin keys they reject every request."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embedship.errors import UsageError
from embedship.serve import schemas
from embedship.serve.errors import (
    ApiDialect,
    ClientDisconnected,
    Forbidden,
    Internal,
    Invalid,
    InvalidJson,
    ReloadFailed,
    ReloadInProgress,
    TooLarge,
    Unauthorised,
)
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.search.address import Address, parse_location
from embedship.serve.service.reload import Reloader, ReloadResult

_BODY_BYTES = 64 * 1024


def routes(reload: Reloader) -> tuple[Route, ...]:
    admin = AdminRoutes(reload)
    return (
        Route(
            "POST", "/admin/reload", "Replace the bundle or the index", admin.reload,
            schemas.ReloadRequest, ReloadResult, ApiDialect.FLAT,
            (Unauthorised, Forbidden, InvalidJson, Invalid, TooLarge, ReloadInProgress, ReloadFailed,
                ClientDisconnected, Internal),
            body_bytes=_BODY_BYTES, admin=True,
        ),
    )  # fmt: skip


class AdminRoutes:
    def __init__(self, reload: Reloader) -> None:
        self._reload = reload

    async def reload(self, request: schemas.ReloadRequest, call: RequestInfo) -> Response:
        """Respond when the new bundle and index are in use, or cannot be used."""
        if request.candidate and (request.bundle or request.index):
            raise Invalid(
                "candidate: the server uses the candidate's own bundle and index; remove `bundle` and `index`.",
                "candidate",
            )
        for field in ("bundle", "index"):
            if "\0" in (getattr(request, field) or ""):
                raise Invalid(f"{field}: the path contains a NUL character, which no path can: remove it.", field)
        bundle = Path(request.bundle) if request.bundle else None
        try:
            index = parse_location(request.index) if request.index else None
        except UsageError as error:
            raise Invalid(f"index: {error}.", "index") from None
        if isinstance(index, Address) and index.uri not in self._reload.milvus:
            known = ", ".join(sorted(self._reload.milvus)) or "none"
            raise Invalid(
                f"index: {index} is not on a Milvus server that this server was started with ({known}): the Milvus "
                "token is not sent to other servers. To use another one, restart this server with --index.",
                "index",
            )
        return Response(msgspec.json.encode(await self._reload(bundle, index, candidate=bool(request.candidate))))
