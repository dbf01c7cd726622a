"""docs/metrics.md against a live scrape, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..conftest import launched

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def row(family: Metric) -> str:
    """A line of the page, as the scrape has it; `le` is Prometheus' own."""
    labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
    name = family.name + "_total" * (family.type == "counter")
    shown = ", ".join(f"`{label}`" for label in labels) or "-"
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


def rows(scrape: str) -> Iterator[str]:
    """The process_ metrics are Prometheus' own, and their values depend on the system."""
    families = text_string_to_metric_families(scrape)
    return (row(family) for family in families if not family.name.startswith("process_"))


def test_the_page_lists_what_a_scrape_gives_and_nothing_else(bundle: Path, rerank_bundle: Path) -> None:
    with launched(str(bundle), "--reranker", str(rerank_bundle)) as live:
        scraped = list(rows(httpx.get(f"{live.url}/metrics", timeout=60).text))
    written = re.findall(r"^\| `.*$", PAGE.read_text(), re.MULTILINE)
    assert "\n".join(sorted(written)) == "\n".join(sorted(scraped)), f"{PAGE.name} is out of date"
    assert len(set(written)) == len(written)
