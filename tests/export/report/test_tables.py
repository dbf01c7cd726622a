from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from embedship.bundle import BundleManifest, Quantisation, ShapeCertificate, WrongShape
from embedship.charts.table import ChartTable
from embedship.export.report import tables

Make = Callable[..., BundleManifest]
replace = msgspec.structs.replace
ALL = (
    tables.variants,
    tables.gate,
    tables.invariance,
    tables.operators,
    tables.worst_texts,
    tables.model,
    tables.machine,
    tables.provenance,
)


def column(table: ChartTable, heading: str) -> list[str]:
    place = [column.heading for column in table.columns].index(heading)
    return [row.cells[place] for row in table.rows]


@pytest.mark.parametrize("table", ALL)
def test_every_row_fills_every_column(manifest: Make, table: Callable[[BundleManifest], ChartTable]) -> None:
    made = table(manifest())
    assert made.rows
    assert all(len(row.cells) == len(made.columns) for row in made.rows)
    assert all(isinstance(cell, str) and cell for row in made.rows for cell in row.cells)


def test_one_variant_is_marked(manifest: Make) -> None:
    for table in (tables.variants, tables.gate, tables.invariance):
        assert [row.cells[0] for row in table(manifest()).rows if row.marked] == ["openvino-int8"]


def test_figures_stand_with_their_units(manifest: Make) -> None:
    found = tables.variants(manifest())
    assert column(found, "size")[0] == "90.4 MB"
    assert column(found, "one short text")[-1] == "0.64 ms"
    assert column(found, "to plain ONNX") == ["1.00 x", "1.04 x", "2.68 x", "2.88 x", "4.90 x"]
    assert column(found, "recall@10")[-1] == "0.6813"


def test_what_was_not_measured_is_said(manifest: Make) -> None:
    made = manifest()
    bare = [
        replace(v, parity=replace(v.parity, overlap=0.0), invariance=replace(v.invariance, texts=0))
        for v in made.variants
    ]
    choice = replace(made.choice, tokens_per_second={}, latency_seconds={})
    unmeasured = manifest(variants=tuple(bare), choice=choice, quality=None)
    for heading in ("tokens/s", "to plain ONNX", "one short text", "recall@10"):
        assert set(column(tables.variants(unmeasured), heading)) == {"not measured"}
    assert set(column(tables.gate(unmeasured), "top-10 overlap")) == {"not measured"}
    assert set(column(tables.invariance(unmeasured), "worst")) == {"not measured"}


def test_the_shape_certificate_is_shown_with_its_wrong_shapes(manifest: Make) -> None:
    assert tables.shape_certificates(manifest()) is None
    certificate = ShapeCertificate(
        runtime="openvino 2026.4.1",
        isa=("AVX512_VNNI",),
        device="CPU",
        streams=2,
        plan="0123",
        checked=252,
        wrong=(WrongShape(8, 32, 0.55),),
        worst=0.9991234,
        seconds=10.94,
    )
    *others, chosen = manifest().variants
    found = tables.shape_certificates(manifest(variants=(*others, replace(chosen, shapes=certificate))))
    assert found is not None
    assert [(row.cells[0], row.marked) for row in found.rows] == [("openvino-int8", True)]
    assert found.rows[0].cells[1:4] == ("openvino 2026.4.1", "252", "1")
    assert column(found, "took") == ["10.9 s"]
    assert all(len(row.cells) == len(found.columns) for row in found.rows)


def test_a_dynamic_scale_is_named(manifest: Make) -> None:
    first, *others = manifest().variants
    made = manifest(variants=(replace(first, quantisation=Quantisation.DYNAMIC), *others))
    assert column(tables.invariance(made), "scale")[:2] == ["from its batch", "fixed"]


def test_quality_rows_name_their_share_of_the_checkpoint(manifest: Make) -> None:
    quality = manifest().quality
    assert quality is not None
    found = tables.quality(quality, "openvino-int8")
    assert len(found.rows) == len(quality.measured)
    assert column(found, "of its recall@10")[0] == "100.0%"
    assert "ubinary, rescored" in column(found, "code")
    assert set(column(found, "accuracy@1")) == {"not measured"}
    assert all(row.cells[0] == "openvino-int8" for row in found.rows if row.marked)


def test_provenance_without_options_says_so(manifest: Make) -> None:
    provenance = replace(manifest().provenance, options={})
    assert ("options", "not recorded") in [row.cells for row in tables.provenance(manifest(provenance=provenance)).rows]
