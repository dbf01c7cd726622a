"""The report in a real browser: what it shows, on what paper and screen, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from embedship.bundle import REPORT_HTML, BundleManifest
from embedship.export.report import page as report_page

Make = Callable[..., BundleManifest]
replace = msgspec.structs.replace
HOSTILE = "</title></style><script>alert(1)</script><img src='http://127.0.0.1:9/x' onerror='alert(1)'>" + "W" * 300

# Of every word in every figure: is it inside its drawing, and where?
WORDS = """() => [...document.querySelectorAll("svg.plot")].map(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].map(text => {
    const box = text.getBoundingClientRect();
    const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
      && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
    return {text: text.textContent, inside, left: box.left, right: box.right, top: box.top, bottom: box.bottom};
  });
})"""
# The lowest contrast of any text to what lies behind it, as WCAG 2.2 counts it.
CONTRAST = """() => {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
  return Math.min(...[...document.querySelectorAll("p, td, th, li div, figcaption, svg text, h1, h2, h3")].map(e => {
    const style = getComputedStyle(e);
    const [a, b] = [parts(e.closest("svg") ? style.fill : style.color), behind(e.parentElement)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["full", "bare", "hostile"])
def report(
    request: pytest.FixtureRequest, manifest: Make, spreads: dict[str, np.ndarray], tmp_path_factory: Any
) -> Path:
    made = manifest()
    match request.param:
        case "bare":
            made = manifest(quality=None, choice=replace(made.choice, latency_seconds={}))
        case "hostile":
            variants = tuple(replace(v, parity=replace(v.parity, worst_text=HOSTILE)) for v in made.variants)
            made = manifest(source=replace(made.source, name=HOSTILE), variants=variants)
    folder = Path(tmp_path_factory.mktemp(request.param))
    report_page.write(folder, made, spreads)
    return folder / REPORT_HTML


@pytest.fixture
def look(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Open the report; afterwards nothing must have been fetched, said or asked."""
    pages, noticed = [], []

    def opened(width: int, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on("dialog", lambda dialog: noticed.append(dialog.message))
        page.on("request", lambda request: request.url != report.as_uri() and noticed.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert noticed == []


@pytest.mark.parametrize("width", [400, 820, 1200])
def test_it_fits_and_every_figure_is_there(look: Callable[..., Page], report: Path, width: int) -> None:
    page = look(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure svg.plot")
    assert figures.count() == (6 if "bare" in str(report) else 8)
    for i in range(figures.count()):
        box = figures.nth(i).bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 80


def test_the_words_of_a_figure_are_inside_it_and_apart(look: Callable[..., Page]) -> None:
    for words in look(1200).evaluate(WORDS):
        assert [word["text"] for word in words if not word["inside"]] == []
        for a, b in combinations(words, 2):
            width = min(a["right"], b["right"]) - max(a["left"], b["left"])
            height = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
            assert width <= 1 or height <= 4, f"{a['text']!r} and {b['text']!r} overlap"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(look: Callable[..., Page], scheme: str) -> None:
    page = look(1200, color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 3 * 128) is (scheme == "light")
    assert page.evaluate(CONTRAST) >= 4.5


def test_it_can_be_printed(look: Callable[..., Page]) -> None:
    """A4 without its margins, and dark mode left behind."""
    page = look(688, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")
