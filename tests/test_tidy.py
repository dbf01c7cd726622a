"""Style that runs (after TigerBeetle's tidy test): lengths, names and widths.

The lists hold what is not tidy yet. They may only become shorter: an entry that is tidy now must be deleted.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE_COLUMNS = 100
ONE_WORD_PERCENT = 20
LONG_FUNCTIONS: frozenset[str] = frozenset(
    {
        "export.commands.export:export",
    }
)
LONG_MODULES: frozenset[str] = frozenset(
    {
        "bundle.manifest",
        "export.build",
        "monitor.assets.service",
        "serve.schemas",
    }
)
METAPHORS: frozenset[str] = frozenset(
    {
        "export.checkpoint.adapter:room",
        "export.checkpoint.open:room",
        "export.commands.evaluate:doors",
        "export.dry_run:_require_room",
        "export.gates.retrieval:_doors",
        "export.variants.openvino:_room",
        "monitor.assets.connections:_CROWDED",
        "monitor.observer:_patience",
        "serve.batching.dispatcher:_seats",
        "serve.batching.dispatcher:errands",
        "serve.batching.dispatcher:seat",
        "serve.batching.executor:_seats",
        "serve.batching.executor:ticket",
        "serve.batching.executor:visit",
        "serve.batching.model_client:visit",
        "serve.batching.pending:ticket",
        "serve.batching.priority_queue:_crowd",
        "serve.batching.retry:errand",
        "serve.http.app:_face",
        "serve.http.app:_house",
        "serve.http.app:face",
        "serve.http.app:house",
        "serve.http.app:visit",
        "serve.http.connection:_crowded",
        "serve.http.routes.health:_house",
        "serve.http.routes.health:house",
        "serve.http.routes.info:shelf",
        "serve.http.routes:house",
        "serve.live.database:_ROOM",
        "serve.live.index:_pen",
        "serve.live.index:pen",
        "serve.live.view:room",
        "serve.main:house",
        "serve.service.background:_choirs",
        "serve.service.background:choirs",
        "serve.service.background:songs",
        "serve.service.canaries:songs",
        "serve.service.candidate:_PATIENCE_SECONDS",
        "serve.service.candidate:_shelf",
        "serve.service.candidate:shelf",
        "serve.service.feedback:shelf",
        "serve.service.model:choir",
        "serve.service.model:door",
        "serve.service.monitor_setup:choir",
        "serve.service.monitor_setup:shelf",
        "serve.service.query_pipeline:_shelf",
        "serve.service.query_pipeline:shelf",
        "serve.service.query_pipeline:visit",
        "serve.service.reload:_house",
        "serve.service.reload:house",
        "serve.service.service:_shelf",
        "serve.service.service:shelf",
        "serve.service.state:shelf",
        "serve.telemetry.logs:visit",
        "serve.telemetry.request_context:visit",
        "serve.telemetry.spans:visit",
        "serve.telemetry.tracing:visit",
        "transfer.download:patience",
        "transfer.oci:patience",
        "transfer.pull:_require_room",
        "transfer.pull:patience",
    }
)
WIDE_PAGES: frozenset[str] = frozenset({"CHANGELOG.md", "helm/README.md", "helm/embedship/README.md"})


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The functions of tools/names.py."""
    return runpy.run_path(str(ROOT / "tools" / "names.py"))


def require(found: set[str], known: frozenset[str], fault: str) -> None:
    assert not (new := sorted(found - known)), f"{fault}: {', '.join(new)}"
    assert not (old := sorted(known - found)), f"tidy now, delete from the list in tests/test_tidy.py: {', '.join(old)}"


def test_functions_are_short(names: dict[str, Any]) -> None:
    require(set(names["long_functions"]()), LONG_FUNCTIONS, f"more than {names['FUNCTION_LINES']} lines")


def test_modules_are_short(names: dict[str, Any]) -> None:
    require(set(names["long_modules"]()), LONG_MODULES, f"more than {names['MODULE_LINES']} lines")


def test_no_class_name_is_used_twice(names: dict[str, Any]) -> None:
    assert names["used_twice"](names["classes"]()) == []


def test_most_class_names_are_more_than_one_word(names: dict[str, Any]) -> None:
    classes = names["classes"]()
    assert 100 * len(names["one_word"](classes)) < ONE_WORD_PERCENT * len(classes)


def test_no_identifier_is_a_metaphor(names: dict[str, Any]) -> None:
    require(set(names["metaphors"]()), METAPHORS, "a metaphor; say what it is")


def wide(page: Path) -> bool:
    """Whether text outside code blocks, tables and images is wider than PAGE_COLUMNS."""
    lines = "\n".join(page.read_text().split("```")[0::2]).split("\n")
    return any(len(line) > PAGE_COLUMNS and not line.startswith(("|", "    ", "![")) for line in lines)


def test_pages_wrap_at_a_readable_width() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/**/*.md")]
    require({str(page.relative_to(ROOT)) for page in pages if wide(page)}, WIDE_PAGES, f"wider than {PAGE_COLUMNS}")
