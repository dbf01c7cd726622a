"""GET /monitor/ui: a page that shows what GET /monitor, GET /metrics and POST /search say. Its files lie in ui/."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from embedship.serve.http.messages import Headers, RequestInfo, Response, Route

PATH = "/monitor/ui"

# Nothing comes from elsewhere, nothing runs inside the page but its own files, nobody may frame it.
_HEADERS: Headers = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}


def routes() -> tuple[Route, ...]:
    """The page, and its parts: they are counted with it, and in no document."""
    folder = files("embedship.serve.http") / "ui"
    found = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
    page = _route(PATH, "page.html", found.pop("page.html"))
    return (page, *(_route(f"{PATH}/{name}", name, found[name], part_of=PATH) for name in sorted(found)))


def _route(path: str, name: str, content: bytes, part_of: str | None = None) -> Route:
    media = _TYPES[name.rpartition(".")[2]]
    summary = "A page to look at: the service and its quality, live"
    return Route(
        "GET", path, summary, _answer(content, media), media=media.partition(";")[0], part_of=part_of, open=True
    )


def _answer(content: bytes, media: str) -> Callable[[None, RequestInfo], Awaitable[Response]]:
    reply = Response(content, content_type=media.encode(), headers=_HEADERS)

    async def answer(_: None, call: RequestInfo) -> Response:
        return reply

    return answer
