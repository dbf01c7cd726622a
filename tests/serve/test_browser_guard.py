"""What a browser sends for a page of another site is refused where there are no keys; what programs send is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedship.errors import UsageError
from embedship.serve.browser_guard import BrowserGuard
from embedship.serve.errors import Forbidden
from embedship.serve.settings import Settings

from .conftest import Live, launched

LOOPBACK = ("127.0.0.1", 8080)
OUTSIDE = ("10.0.0.7", 8080)


def refused(server: tuple[str, int], hosts: str | None = None, **headers: str) -> bool:
    found = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        BrowserGuard.parse(hosts).check({"server": server, "headers": found})
    except Forbidden:
        return True
    return False


@pytest.mark.parametrize(
    "host", ["localhost:8080", "127.0.0.1:8080", "[::1]:80", "LOCALHOST", "10.1.2.3", "a.localhost"]
)
def test_the_names_of_this_machine_are_its_own(host: str) -> None:
    assert not refused(LOOPBACK, host=host)


@pytest.mark.parametrize("host", ["evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.com", "", "[", "x y"])
def test_a_name_that_was_bound_to_loopback_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name, and the browser holds our answers for its own."""
    assert refused(LOOPBACK, host=host)


def test_other_addresses_are_known_by_any_name_unless_some_are_given() -> None:
    """A Service of a cluster has many names, and none that the server knows."""
    assert not refused(OUTSIDE, host="embedship.default.svc")
    assert refused(OUTSIDE, "api.example", host="embedship.default.svc")
    assert not refused(OUTSIDE, "api.example, embedship.default.svc", host="embedship.default.svc:80")
    assert not refused(LOOPBACK, "api.example", host="API.example")
    assert not refused(LOOPBACK, "*", host="any.example", origin="https://evil.example")


@pytest.mark.parametrize("server", [LOOPBACK, OUTSIDE])
@pytest.mark.parametrize(
    "marks",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://[", "sec_fetch_site": "same-origin"},
    ],
)
def test_pages_of_other_sites_are_refused(server: tuple[str, int], marks: dict[str, str]) -> None:
    assert refused(server, host="localhost:8080", **marks)


@pytest.mark.parametrize(
    "marks",
    [
        {},
        {"origin": "http://localhost:8080", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_programs_and_our_own_page_are_answered(marks: dict[str, str]) -> None:
    assert not refused(LOOPBACK, host="localhost:8080", **marks)
    assert not refused(LOOPBACK, "app.example", host="localhost:8080", origin="https://app.example:3000")


@pytest.mark.parametrize("given", ["https://a.example", "a.example:80", "", "a,,b", "a b", "-a", "/"])
def test_what_is_no_name_is_refused_at_start(given: str) -> None:
    with pytest.raises(UsageError, match=r"--allowed-hosts \(EMBEDSHIP_ALLOWED_HOSTS\)"):
        Settings(bundle=Path("b"), allowed_hosts=given)


@pytest.fixture(scope="module")
def served(bundle: Path, index_folder: Path) -> Iterator[Live]:
    with launched(str(bundle), "--index", str(index_folder), "--allowed-hosts", "app.example") as server:
        yield server


QUERY = json.dumps({"query": "open a file", "k": 1})


def asked(server: Live, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/search", content=QUERY, headers=headers, timeout=60)


def test_a_page_can_neither_poison_nor_read(served: Live) -> None:
    """`fetch` with no-cors sends text/plain, and needs no leave of the server; `curl --data` sends a form."""
    page = {"content-type": "text/plain", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    answer = asked(served, **page)
    assert answer.status_code == 403
    assert "--allowed-hosts evil.example" in answer.json()["error"]
    assert asked(served, host="evil.example").status_code == 403
    assert httpx.get(f"{served.url}/monitor", headers={"host": "evil.example"}).status_code == 403
    assert asked(served, **{"content-type": "application/x-www-form-urlencoded"}).status_code == 200
    assert asked(served, host="app.example").status_code == 200
    assert httpx.get(f"{served.url}/health", headers={"host": "10.2.3.4:80"}).status_code == 200, "as a kubelet asks"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_who_has_a_key_may_ask_from_anywhere(fresh: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-the-tests-0123456789")
    api = fresh(api_key_file=tmp_path / "keys")
    page = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
    assert api.ask("POST", "/embed", json={"inputs": "a"}, headers=page).status_code == 401
    page["authorization"] = "Bearer a-key-of-the-tests-0123456789"
    assert api.ask("POST", "/embed", json={"inputs": "a"}, headers=page).status_code == 200
