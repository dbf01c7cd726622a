"""The documentation site in a browser: search finds pages, nothing is asked of other hosts, pages fit a phone."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SECONDS = 60


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site; search does not work from files."""
    if importlib.util.find_spec("material") is None:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up("mkdocs-material is not installed: it comes with the extra [docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """A page that must end without a console error and without a request to another host."""
    noticed: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(SECONDS * 1000)
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.on("console", lambda message: message.type == "error" and noticed.append(message.text))
    page.on("request", lambda request: request.url.startswith((url, "data:", "blob:")) or noticed.append(request.url))
    yield page
    page.close()
    assert noticed == []


def test_search_finds_a_page(page: Page, url: str) -> None:
    page.goto(f"{url}/index.html")
    page.locator(".md-search__input").fill("threat model")
    page.locator(".md-search-result__link[href*='threat-model.html']").first.wait_for()


@pytest.mark.parametrize("name", ["index", "serving", "metrics", "benchmarks-search", "architecture"])
def test_a_page_fits_a_phone(page: Page, url: str, name: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{url}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_follows_the_scheme_of_the_system(browser: Browser, url: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{url}/index.html")
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.close()
    assert (body == "rgb(255, 255, 255)") is (scheme == "light")
