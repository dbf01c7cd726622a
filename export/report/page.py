"""report.html and report.json: the measurements of an export, for people and for machines.

The page is one file without scripts and requests; plots are SVG. Everything that came with the model or its texts is
escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt

from embedship.bundle import REPORT_HTML, REPORT_JSON, BundleManifest, Variant
from embedship.charts import page
from embedship.charts.plot import Plot
from embedship.export.report import figures, tables, wording
from embedship.export.report.histogram import CosineHistogram

_HERE = Path(__file__).parent


def write(folder: Path, manifest: BundleManifest, cosines: Mapping[str, npt.ArrayLike]) -> None:
    """Write both reports into a bundle's folder before the manifest is written.

    `cosines` has, by variant, the (n,) cosines of all probe texts to the checkpoint.
    """
    histograms = {name: CosineHistogram.from_cosines(values) for name, values in cosines.items()}
    (folder / REPORT_HTML).write_text(html(manifest, histograms), encoding="utf-8")
    (folder / REPORT_JSON).write_bytes(as_json(manifest, histograms))


def as_json(manifest: BundleManifest, histograms: Mapping[str, CosineHistogram]) -> bytes:
    """Return the verdict, the histograms, and the manifest without its file list, which contains this report's hash."""
    facts: dict[str, Any] = msgspec.to_builtins(manifest)
    del facts["files"], facts["digest"]
    report = {"verdict": wording.verdict(manifest), "cosines": histograms, **facts}
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=1) + b"\n"


def html(manifest: BundleManifest, histograms: Mapping[str, CosineHistogram]) -> str:
    """Return the page as HTML."""
    quality, choice = manifest.quality, manifest.choice
    timed = bool(choice.tokens_per_second)
    template = page.template(_HERE / "report.html.j2")
    return template.render(
        manifest=manifest,
        verdict=wording.verdict(manifest),
        tiles=wording.summary_tiles(manifest),
        speed=figures.speed_against_cosine(manifest) if timed else None,
        recall=figures.speed_against_recall(manifest, quality) if quality and timed else None,
        sizes=figures.recall_against_bytes(quality, choice.variant) if quality else None,
        spreads=_spreads(manifest, histograms),
        quality=tables.quality(quality, choice.variant) if quality else None,
        certified=tables.shape_certificates(manifest),
        tables=tables,
    )


def _spreads(manifest: BundleManifest, histograms: Mapping[str, CosineHistogram]) -> list[tuple[Variant, Plot]]:
    """Return one histogram per variant, all on the axis that the worst cosine needs."""
    worst = min(v.parity.minimum for v in manifest.variants)
    spreads = []
    for variant in manifest.variants:
        if variant.name in histograms:
            floors = manifest.floors.get(variant.precision)
            floor = floors.minimum if floors else None
            spreads.append((variant, figures.histogram(variant, histograms[variant.name], worst, floor)))
    return spreads
