from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.bundle import REPORT_HTML, REPORT_JSON, Bundle, BundleManifest
from embedship.export.report import page as report_page
from embedship.export.report.histogram import CosineHistogram

Make = Callable[..., BundleManifest]
Spreads = dict[str, np.ndarray]
replace = msgspec.structs.replace
HOSTILE = "</title></style><script>alert(1)</script>\" onload='x' {{ 7 * 7 }} &amp;"


class Page(HTMLParser):
    """Tags and attributes, and that what was opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in {"meta", "line", "rect", "circle", "path", "polyline"} or (tag != "meta" and not self._empty()):
            self.open.append(tag)

    def _empty(self) -> bool:
        return (self.get_starttag_text() or "").endswith("/>")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(manifest: BundleManifest, spreads: Spreads) -> str:
    return report_page.html(manifest, {name: CosineHistogram.from_cosines(values) for name, values in spreads.items()})


@pytest.fixture
def hostile(manifest: Make) -> BundleManifest:
    """Every text that comes from outside tries to become markup."""
    made = manifest()
    assert made.quality is not None
    variants = tuple(replace(v, parity=replace(v.parity, worst_text=HOSTILE)) for v in made.variants)
    return manifest(
        source=replace(made.source, name=HOSTILE, versions={HOSTILE: HOSTILE}),
        variants=variants,
        quality=replace(made.quality, dataset=HOSTILE),
        pipeline=replace(made.pipeline, prompts={HOSTILE: HOSTILE}, architecture=HOSTILE),
        provenance=replace(made.provenance, options={HOSTILE: HOSTILE}, files={HOSTILE: "00"}),
    )


def test_it_is_well_formed_and_has_every_figure(manifest: Make, spreads: Spreads) -> None:
    found = Page(page(manifest(), spreads))
    assert found.open == []
    assert found.tags.count("figure") == 3 + 5
    assert found.tags.count("table") == 9


@pytest.mark.parametrize("name", ["hostile", "plain"])
def test_nothing_runs_and_nothing_is_fetched(
    name: str, hostile: BundleManifest, manifest: Make, spreads: Spreads
) -> None:
    found = Page(page(hostile if name == "hostile" else manifest(), spreads))
    assert found.open == []
    assert not {"script", "link", "img", "iframe", "object", "a", "use"} & set(found.tags)
    assert not [key for key, _ in found.attributes if key.startswith("on") or key in {"src", "href", "style"}]


def test_hostile_names_are_shown_as_they_are_written(hostile: BundleManifest, spreads: Spreads) -> None:
    text = page(hostile, spreads)
    assert "<script" not in text
    assert "49" not in re.findall(r"onload=.{0,20}", text)[0]
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5 + 8


def test_control_characters_and_turned_reading_do_not_reach_the_page(manifest: Make, spreads: Spreads) -> None:
    made = manifest()
    text = page(manifest(source=replace(made.source, name="a\x00b\x1b[31m\u202ec\nd")), spreads)
    assert "<h1>a\ufffdb\ufffd[31m\ufffdc\ufffdd</h1>" in text


def test_what_was_not_measured_is_said(manifest: Make) -> None:
    made = manifest()
    choice = replace(made.choice, tokens_per_second={}, latency_seconds={})
    text = page(manifest(quality=None, choice=choice), {})
    for sentence in (
        "Speed was not measured",
        "spread of cosines was not measured",
        "Export with <code>--eval DIR</code>",
    ):
        assert sentence in " ".join(text.split())
    assert "<figure" not in text


def test_one_dimension_and_code_are_said_to_be_all(manifest: Make, spreads: Spreads) -> None:
    quality = manifest().quality
    assert quality is not None
    text = page(manifest(quality=replace(quality, measured=quality.measured[:6])), spreads)
    assert "Smaller dimensions and codes were not measured" in text


def test_the_same_for_machines(manifest: Make, spreads: Spreads, tmp_path: Path) -> None:
    made = manifest()
    report_page.write(tmp_path, made, spreads)
    report = json.loads((tmp_path / REPORT_JSON).read_bytes())
    assert "files" not in report
    assert report["verdict"][0].startswith("legal-matryoshka was exported")
    assert sum(report["cosines"]["onnx-int8"]["counts"]) == 213
    rebuilt = {key: value for key, value in report.items() if key not in {"verdict", "cosines"}}
    assert msgspec.convert({**rebuilt, "files": {}}, BundleManifest) == made


def test_the_same_measurements_give_the_same_bytes(manifest: Make, spreads: Spreads, tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        report_page.write(folder, manifest(), spreads)
    for name in (REPORT_HTML, REPORT_JSON):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_real_bundle_holds_its_report(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    text = (bundle / REPORT_HTML).read_text(encoding="utf-8")
    assert {REPORT_HTML, REPORT_JSON} <= set(manifest.files)
    assert manifest.fingerprint in text
    assert f"Serve uses {manifest.choice.variant} " in text
    assert "Each batch shape (rows x tokens) that a server can use was computed on this machine" in text
    report = json.loads((bundle / REPORT_JSON).read_bytes())
    assert {name: sum(h["counts"]) for name, h in report["cosines"].items()} == {
        v.name: v.parity.texts for v in manifest.variants
    }
