"""The drift report as a file and in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from embedship.monitor.drift.offline import LoggedQueries, compare
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.recall.history import recall_history
from embedship.serve.offline.drift_page.render import html
from embedship.serve.offline.drift_report import DriftCommandReport, DriftRequest
from embedship.serve.offline.query_log import DriftLog

HOSTILE = "</title></style><script>alert(1)</script>{{ 7 * 7 }}<img src='http://127.0.0.1:9/x'>" + "W" * 200
D, N = 12, 900
RANDOM = np.random.default_rng(6)
CENTRES = 4 * RANDOM.normal(size=(4, D))

# Words of a figure that jut out of their drawing.
OUTSIDE = """() => [...document.querySelectorAll("svg.plot")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map(text => text.textContent);
})"""


def drawn(n: int, topics: int) -> np.ndarray:
    return np.asarray(CENTRES[RANDOM.integers(topics, size=n)] + RANDOM.normal(size=(n, D)), dtype=np.float32)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Everything measured on a log that drifts late, with adversarial texts; a log too small to say anything."""
    reference = DriftReference.fit(drawn(600, 3), "f00d" * 16, created=HOSTILE)
    vectors = np.concatenate([drawn(600, 3), drawn(300, 4)])
    times = 1.79e9 + np.arange(N) * 300.0
    recalls = RANDOM.binomial(10, np.where(np.arange(N) < 700, 0.95, 0.7)) / 10
    log = LoggedQueries(vectors, None, times, tuple(f"{n} {HOSTILE}" for n in range(N)))
    return {
        "full": _page(reference, log, recalls),
        "unknown": _page(reference, log.part(0, 30), None),
    }


def _page(reference: DriftReference, current: LoggedQueries, recalls: np.ndarray | None) -> str:
    found = compare(reference, current, named=4)
    followed = None if recalls is None or current.times is None else recall_history(recalls, current.times)
    log = DriftLog(current, recalls, HOSTILE, bound=True)
    asked = DriftRequest(Path(HOSTILE.replace("/", "")), Path("now.npz"), None, 86_400.0)
    return html(DriftCommandReport.from_comparison(found, followed, reference, log, asked), reference, current)


def test_what_was_found_stands_at_the_top(pages: dict[str, str]) -> None:
    text = " ".join(pages["full"].split())
    assert "The drift is first seen in queries from" in text
    assert "Recall has fallen, first seen" in text
    assert "<h1>Drift could not be decided: 30 distinct queries, 100 needed.</h1>" in pages["unknown"]
    assert "<svg" not in pages["unknown"]


@pytest.mark.parametrize("name", ["full", "unknown"])
def test_what_comes_from_outside_is_shown_as_it_is_written(name: str, pages: dict[str, str]) -> None:
    text = pages[name]
    assert not {"<script", "<img", "49"} & {word for word in ("<script", "<img", "{{ 49") if word in text}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in text


def test_the_report_can_be_read_back(pages: dict[str, str]) -> None:
    """What `--json` prints holds plain JSON only: no NaN, which other readers refuse."""
    reference = DriftReference.fit(drawn(300, 3), "f00d" * 16)
    current = LoggedQueries(drawn(200, 3))
    log = DriftLog(current, None, None, bound=False)
    found = DriftCommandReport.from_comparison(
        compare(reference, current), None, reference, log, DriftRequest(Path("a"), Path("b"), None, 60.0)
    )
    assert msgspec.json.decode(msgspec.json.encode(found))["bound"] is False


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Browser, pages: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open the full page; afterwards nothing must have been fetched, said or asked."""
    path, noticed, opened = tmp_path / "drift.html", [], []
    path.write_text(pages["full"])

    def look(width: int, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        opened.append(page)
        page.on("console", lambda message: noticed.append(message.text))
        page.on("dialog", lambda dialog: noticed.append(dialog.message))
        page.on("request", lambda request: request.url != path.as_uri() and noticed.append(request.url))
        page.goto(path.as_uri())
        return page

    yield look
    for page in opened:
        page.close()
    assert noticed == []


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1200, "light"), (1200, "dark")])
def test_it_fits_any_screen(look: Callable[..., Page], width: int, scheme: str) -> None:
    page = look(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg.plot").count() == 5
    assert page.evaluate(OUTSIDE) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 3 * 128) is (scheme == "light")
