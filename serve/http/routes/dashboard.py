"""GET /monitor/ui: web page that displays GET /monitor, GET /metrics and POST /search. Its files are in ui/."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from embedship.serve.http.messages import Headers, RequestInfo, Response, Route

PATH = "/monitor/ui"

# The page loads and runs only its own files, and other pages must not embed it in a frame.
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
    """Return the routes of the page and of its files. The files use the metric label of the page."""
    folder = files("embedship.serve.http") / "ui"
    contents = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
    page = _route(PATH, "page.html", contents.pop("page.html"))
    return (page, *(_route(f"{PATH}/{name}", name, contents[name], part_of=PATH) for name in sorted(contents)))


def _route(path: str, name: str, content: bytes, part_of: str | None = None) -> Route:
    media = _TYPES[name.rpartition(".")[2]]
    summary = "Web page with the live state of the service and its quality"
    return Route(
        "GET", path, summary, _respond_with(content, media), media=media.partition(";")[0], part_of=part_of, public=True
    )


def _respond_with(content: bytes, media: str) -> Callable[[None, RequestInfo], Awaitable[Response]]:
    response = Response(content, content_type=media.encode(), headers=_HEADERS)

    async def respond(_: None, call: RequestInfo) -> Response:
        return response

    return respond
