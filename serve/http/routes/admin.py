"""What changes a running server: for those with an admin key, and for nobody where there is none."""

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
            "POST", "/admin/reload", "Take up a new bundle or index", admin.reload,
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
        """Answers when the new one answers, or when it cannot."""
        if request.candidate and (request.bundle or request.index):
            raise Invalid(
                "candidate: its bundle and index are those that the server compares; name no other.", "candidate"
            )
        bundle = Path(request.bundle) if request.bundle else None
        try:
            index = parse_location(request.index) if request.index else None
        except UsageError as error:
            raise Invalid(f"index: {error}.", "index") from None
        if isinstance(index, Address) and index.uri not in self._reload.milvus:
            known = ", ".join(sorted(self._reload.milvus)) or "none"
            raise Invalid(
                f"index: {index} is not on a Milvus server that this server was started with ({known}): its token is "
                "sent to no other. Start it with --index, to take up another one.",
                "index",
            )
        return Response(msgspec.json.encode(await self._reload(bundle, index, candidate=request.candidate)))
