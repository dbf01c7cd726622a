"""Each dialect refuses in the shape its client parses: 401, 413, 422 or 400, 429, and paths that do not exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship.serve.errors import ERROR_SCHEMAS, ApiDialect
from embedship.serve.http.app import App
from embedship.serve.http.messages import Route
from embedship.serve.http.routes import routes
from embedship.serve.telemetry.request_context import Priority

KEY = "k" * 32
FAMILIES = [
    # route, field that holds the texts, other fields, dialect, status of an invalid body
    ("/v1/embeddings", "input", {}, ApiDialect.OPENAI, 400),
    ("/embed", "inputs", {}, ApiDialect.FLAT, 422),
    ("/embeddings", "input", {}, ApiDialect.INFINITY, 422),
    ("/v2/embed", "texts", {"input_type": "search_query"}, ApiDialect.COHERE, 400),
    ("/v1/encode", "texts", {}, ApiDialect.FLAT, 422),
]
every_family = pytest.mark.parametrize(("path", "field", "more", "dialect", "invalid"), FAMILIES)


def sentence(dialect: ApiDialect, content: bytes) -> str:
    """Decoding is strict about types: a shape of another dialect fails here."""
    error: Any = msgspec.json.decode(content, type=ERROR_SCHEMAS[dialect])
    if dialect is ApiDialect.COHERE:
        return str(error.message)
    if dialect is ApiDialect.INFINITY:
        assert error.detail[0].msg == error.error.message
        assert error.detail[0].loc[0] == "body"
    return str(error.error if dialect is ApiDialect.FLAT else error.error.message)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(KEY)
    return file


@every_family
def test_a_wrong_body(api: Any, path: str, field: str, more: Any, dialect: ApiDialect, invalid: int) -> None:
    answer = api.post(path, {field: [], **more})
    assert answer.status_code == invalid
    assert "the list is empty" in sentence(dialect, answer.content)


@every_family
def test_too_many_texts(api: Any, path: str, field: str, more: Any, dialect: ApiDialect, invalid: int) -> None:
    answer = api.post(path, {field: ["a"] * 65, **more})
    assert answer.status_code == 413
    assert f"{field}: 65 texts; the maximum is 64" in sentence(dialect, answer.content)


def test_overloaded_and_unauthorised(fresh: Callable[..., Any], guarded: Path) -> None:
    api = fresh(queue_texts=8, max_texts=4, api_key_file=guarded)
    with api.service.inference.admission.acquire(8, Priority.INTERACTIVE):
        for path, field, more, dialect, _ in FAMILIES:
            body = {field: ["a"], **more}
            full = api.ask("POST", path, json=body, headers={"Authorization": f"Bearer {KEY}"})
            assert (full.status_code, int(full.headers["retry-after"]) >= 1) == (429, True)
            assert "queue is full" in sentence(dialect, full.content)
            stranger = api.post(path, body)
            assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, "Bearer")
            assert "API key" in sentence(dialect, stranger.content)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/embedding", ApiDialect.OPENAI),
        ("/v2/rerank", ApiDialect.COHERE),
        ("/embeddings/x", ApiDialect.INFINITY),
        ("/embed_all", ApiDialect.FLAT),
    ],
)
def test_a_lost_request_is_told_so_by_its_neighbours(api: Any, path: str, dialect: ApiDialect) -> None:
    answer = api.ask("GET", path)
    assert answer.status_code in (404, 405)
    assert sentence(dialect, answer.content)


def test_the_shape_of_an_error_does_not_depend_on_the_order_of_the_routes(fresh: Callable[..., Any]) -> None:
    state = fresh().state

    def reversed_routes(*given: Any) -> tuple[Route, ...]:
        return routes(*given)[::-1]

    table = App(state, make_routes=reversed_routes)._current_route_table()
    for path, dialect in (
        ("/v1/x", ApiDialect.OPENAI),
        ("/v2/x", ApiDialect.COHERE),
        ("/models/x", ApiDialect.INFINITY),
        ("/embeddings/x", ApiDialect.INFINITY),
        ("/admin/x", ApiDialect.FLAT),
        ("/x", ApiDialect.FLAT),
    ):
        assert table.dialect("GET", path) is dialect


def test_a_lane_that_is_none(api: Any) -> None:
    answer = api.ask("POST", "/embed", json={"inputs": "a"}, headers={"X-Embedship-Lane": "fast"})
    assert answer.status_code == 422
    assert "interactive, bulk" in answer.json()["error"]
