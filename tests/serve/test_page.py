"""GET /monitor/ui: by its headers, and in a real browser beside a real server."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from embedship.encoder import Encoder
from embedship.monitor.assets.recording import QUIET
from embedship.serve.http.routes.dashboard import PATH, routes
from embedship.serve.indexing.build import IndexOptions, build

from .conftest import Asked, Live, launched

SECONDS = 60_000  # of the browser: milliseconds
HOSTILE = "<img src=http://127.0.0.1:9/x onerror=alert(1)></p><script>alert(1)</script>"

# The number of lines of each signal's title.
TITLE_LINES = """[...document.querySelectorAll(".signals h3")].map((title) => {
  const range = document.createRange();
  range.selectNodeContents(title.firstChild);
  return new Set([...range.getClientRects()].map((box) => box.top)).size;
})"""
# The lowest contrast of any text with its background, as WCAG 2.2 defines it.
CONTRAST = """() => {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
  const shown = e => e.textContent.trim() && e.getClientRects().length && !e.closest(".hidden, .skip");
  const texts = document.querySelectorAll("p, li, h1, h2, h3, small, span, b, code, button");
  return Math.min(...[...texts].filter(shown).map(e => {
    const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""


def test_nothing_from_elsewhere_is_let_in(api: Asked) -> None:
    page = api.ask("GET", PATH)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "://" not in page.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"


def test_it_counts_the_requests_that_the_rules_count(api: Asked) -> None:
    assert f"/^(?:{QUIET})$/" in api.ask("GET", f"{PATH}/metrics.js").text.replace(r"\/", "/")


@pytest.mark.parametrize("route", routes(), ids=lambda route: route.path)
def test_the_parts_are_served_and_counted_as_one(api: Asked, route: Any) -> None:
    before = api.metric("embedship_requests_total", route=PATH, status="2xx")
    answer = api.ask("GET", route.path)
    assert answer.headers["content-type"].partition(";")[0] == route.media
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert api.metric("embedship_requests_total", route=PATH, status="2xx") == before + 1


def test_only_the_page_itself_is_in_the_document(api: Asked) -> None:
    paths = api.ask("GET", "/openapi.json").json()["paths"]
    assert list(paths[PATH]["get"]["responses"]["200"]["content"]) == ["text/html"]
    assert not [path for path in paths if path.startswith(PATH + "/")]
    assert f"{PATH}/" not in api.ask("GET", "/nowhere").json()["error"]


# In a browser.


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose documents try to break out of the page, and whose probes are asked every second."""
    folder = tmp_path_factory.mktemp("page")
    rows = [{"id": f"d{i}", "text": f"{HOSTILE} number {i}", "title": f"How to open file {i}"} for i in range(12)]
    rows[0]["title"] = HOSTILE
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    probes = ({"text": row["title"], "relevant": [row["id"]]} for row in rows)
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probes))
    with Encoder.open(bundle) as encoder:
        variant = encoder.variant.name
        build(encoder, variant, folder / "corpus.jsonl", folder / "index", IndexOptions(), lambda *_: None)
    options = ("--canary-interval-seconds=1", "--probe-interval-seconds=1", "--drift-interval-seconds=1")
    with launched(str(bundle), "--index", str(folder / "index"), *options) as live:
        yield live


@pytest.fixture
def look(browser: Browser, server: Live) -> Iterator[Callable[..., Page]]:
    """Open the page and wait for its first figures; nothing may be fetched elsewhere, said, or asked."""
    pages, noticed = [], []

    def opened(width: int = 1280, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on("dialog", lambda dialog: noticed.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(server.url + "/") or noticed.append(request.url))
        page.goto(server.url + PATH)
        page.locator("#pulse[data-state=ok]").wait_for(timeout=SECONDS)
        return page

    yield opened
    for page in pages:
        page.close()
    assert noticed == []


def ask(page: Page, query: str) -> None:
    page.fill("#search", query)
    page.keyboard.press("Enter")
    page.locator("#hits li").first.wait_for(timeout=SECONDS)


@pytest.mark.parametrize("width", [400, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(look: Callable[..., Page], width: int, scheme: str) -> None:
    page = look(width, color_scheme=scheme)
    ask(page, "open a file")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 3 * 128) is (scheme == "light")
    assert page.evaluate(CONTRAST) >= 4.5


def test_it_shows_what_the_server_says(look: Callable[..., Page], server: Live) -> None:
    page = look()
    page.locator(".signals [data-state=ok]", has_text="Probes").wait_for(timeout=SECONDS)
    known = httpx.get(f"{server.url}/monitor", timeout=60).json()
    info = httpx.get(f"{server.url}/info", timeout=60).json()
    assert page.text_content("#model") == info["model_id"]
    assert page.text_content("#fingerprint") == info["fingerprint"]
    shown = page.locator("#recall .meter", has_text="Probes").locator(".figure").text_content()
    assert float(shown or 0) == pytest.approx(known["probe"]["recall"]["rolling"], abs=0.001)
    cosines = page.locator("#canary .figure").all_text_contents()
    assert [float(each) for each in cosines] == pytest.approx(
        [each["golden"] for each in known["canary"]["devices"]], abs=1e-5
    )


def test_a_device_that_was_silent_for_long_is_not_shown_as_ok(look: Callable[..., Page], server: Live) -> None:
    page = look()
    page.locator("#canary .meter[data-state=ok]").first.wait_for(timeout=SECONDS)

    def silent(route: Any) -> None:
        """What the server says of its canaries when none was asked for some intervals."""
        known = httpx.get(f"{server.url}/monitor", timeout=60).json()
        known["canary"]["state"] = "unknown"
        route.fulfill(json=known)

    page.route("**/monitor", silent)
    page.locator("#canary .meter[data-state=unknown]").first.wait_for(timeout=SECONDS)
    assert page.locator("#canary .meter[data-state=ok]").count() == 0


def test_a_drift_warning_says_what_it_means_below_an_unbroken_title(look: Callable[..., Page], server: Live) -> None:
    page = look()

    def drifting(route: Any) -> None:
        """The server's answer, with a drift warning that began three days ago."""
        known = httpx.get(f"{server.url}/monitor", timeout=60).json()
        known["diagnosis"]["signals"]["drift"] = known["queries"]["drift"]["state"] = "warn"
        known["began"]["drift"] = time.time() - 3 * 86_400
        known["queries"]["evidence"]["far"] = {"cluster": -1, "then": 0.01, "now": 0.05}
        route.fulfill(json=known)

    page.route("**/monitor", drifting)
    card = page.locator(".signals [data-state=warn]", has_text="Queries")
    card.wait_for(timeout=SECONDS)
    assert "About 5.0% of recent queries are of a kind on which the model was not judged" in (card.text_content() or "")
    assert "! warn for 3 d" in (card.text_content() or "")
    assert page.evaluate(TITLE_LINES) == [1] * 5


def test_unknown_is_shown_as_unknown(look: Callable[..., Page]) -> None:
    page = look()
    assert page.text_content("#cause") == "Not enough data yet"
    index = page.locator(".signals li", has_text="Index")
    assert index.get_attribute("data-state") == "unknown"
    assert "? unknown" in (index.text_content() or "")
    assert "100 needed" in (index.text_content() or "")
    assert index.locator(".value").text_content() == "\u2013"
    assert page.locator("#recall .meter", has_text="Index").locator(".figure").text_content() == "unknown"
    users = page.locator(".signals li", has_text="Users")
    assert "not monitored" in (users.text_content() or "")


def test_documents_are_text_and_never_markup(look: Callable[..., Page]) -> None:
    page = look()
    ask(page, "open a file")
    assert page.locator("#hits li").count() == 5
    assert page.locator("#hits img, #hits script").count() == 0
    assert HOSTILE in (page.locator("#hits p").first.text_content() or "")


def test_it_can_be_used_without_a_mouse(look: Callable[..., Page]) -> None:
    page = look()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    page.keyboard.type("open a file")
    page.keyboard.press("Enter")
    page.locator("#hits li").first.wait_for(timeout=SECONDS)
    assert "5 hits in" in (page.text_content("#answer") or "")


def test_nothing_moves_for_those_who_ask_for_rest(look: Callable[..., Page]) -> None:
    moving = "getComputedStyle(document.querySelector('#pulse i')).animationName"
    assert look().evaluate(moving) == "pulse"
    assert look(reduced_motion="reduce").evaluate(moving) == "none"


def test_throughput_is_that_of_the_counters(look: Callable[..., Page], server: Live) -> None:
    page = look()
    tile = page.locator("#tiles li", has_text="Texts encoded").locator(".value")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        end = time.monotonic() + 60  # the page looks every 2 s, and has to look twice
        while time.monotonic() < end:
            client.post("/embed", json={"inputs": ["a", "b"]})
            if (tile.text_content() or "") not in ("0/s", "\u2013/s"):
                break
        else:
            pytest.fail("the page does not see that texts are encoded")
    assert page.locator("#tiles svg[role=img] .line").count() >= 3


def test_a_lost_connection_is_shown_and_found_again(browser: Browser, server: Live) -> None:
    page = browser.new_page()
    page.goto(server.url + PATH)
    page.locator("#pulse[data-state=ok]").wait_for(timeout=SECONDS)
    assert page.locator("#lost").is_hidden()
    server.process.send_signal(signal.SIGSTOP)  # nothing is refused; nothing is answered either
    try:
        page.locator("#lost").wait_for(timeout=SECONDS)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert "does not answer. The data on this page is" in (page.text_content("#lost") or "")
    page.locator("#lost").wait_for(state="hidden", timeout=SECONDS)
    assert page.text_content("#pulse") == "live"
    page.close()


def test_it_asks_for_a_key_and_takes_it_from_its_address(browser: Browser, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-for-the-wall\n")
    with launched(str(bundle), "--api-key-file", str(tmp_path / "keys")) as live:
        page = browser.new_page()
        page.goto(live.url + PATH)
        page.locator("#lost", has_text="requires an API key").wait_for(timeout=SECONDS)
        page.goto(f"{live.url}{PATH}#key=a-key-for-the-wall")
        page.locator("#pulse[data-state=ok]").wait_for(timeout=SECONDS)
        assert page.locator("#lost").is_hidden()
        assert "a-key" not in page.url
        page.close()
