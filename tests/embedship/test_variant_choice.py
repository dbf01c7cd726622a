from __future__ import annotations

import logging
import math
from pathlib import Path

import msgspec
import pytest

from embedship import hardware, variant_choice
from embedship.bundle import (
    Bundle,
    MachineInfo,
    Objective,
    Quantisation,
    RetrievalReport,
    RetrievalResult,
    Variant,
    VariantChoice,
    VectorCode,
)
from embedship.variant_choice import VariantSpeeds

FOREIGN = MachineInfo(cpu="another cpu", isa=("asimd", "i8mm"), cores=64.0)
SPEEDS = VariantSpeeds(
    {"onnx": 100.0, "onnx-O3": 102.0, "onnx-int8": 200.0, "openvino-int8": 300.0, "dynamic": 900.0},
    {"onnx": 0.010, "onnx-O3": 0.008, "onnx-int8": 0.004, "openvino-int8": 0.005, "dynamic": 0.001},
)
SIZES = {"onnx": 90, "onnx-O3": 90, "onnx-int8": 30, "openvino-int8": 25, "dynamic": 20}


@pytest.fixture(scope="module")
def variants(bundle: Path) -> list[Variant]:
    plain = Bundle.open(bundle).plain
    dynamic = {"dynamic": Quantisation.DYNAMIC}
    return [
        msgspec.structs.replace(plain, name=name, size=size, quantisation=dynamic.get(name, Quantisation.NONE))
        for name, size in SIZES.items()
    ]


@pytest.fixture
def foreign(bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle that was exported on another machine. Its folder has only the manifest."""
    opened = Bundle.open(bundle)
    there = msgspec.structs.replace(opened.manifest.choice, machine=FOREIGN)
    return Bundle(tmp_path / "bundle", msgspec.structs.replace(opened.manifest, choice=there, digest="f" * 64))


def here(bundle: Bundle, variant: str) -> VariantChoice:
    return msgspec.structs.replace(bundle.manifest.choice, variant=variant, machine=hardware.machine())


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # O3 gains 1.02x, within the noise. Dynamic int8 is chosen only if it is named.
        (Objective.THROUGHPUT, ["openvino-int8", "onnx-int8", "onnx"]),
        (Objective.LATENCY, ["onnx-int8", "openvino-int8", "onnx-O3", "onnx"]),
        (Objective.SIZE, ["openvino-int8", "onnx-int8", "onnx"]),
    ],
)
def test_rank(variants: list[Variant], objective: Objective, expected: list[str]) -> None:
    assert [v.name for v in variant_choice.rank(variants, objective, SPEEDS)] == expected


def measured(variant: str, recall: float) -> RetrievalResult:
    return RetrievalResult(
        variant=variant,
        dimension=8,
        code=VectorCode.FLOAT32,
        rescored=False,
        bytes_per_vector=32,
        metrics={"recall@10": recall},
    )


def test_the_budget_is_kept_and_what_was_not_measured_is_not_affordable() -> None:
    rows = (measured("checkpoint", 0.8), measured("near", 0.796), measured("far", 0.79), measured("lost", math.nan))
    quality = RetrievalReport(dataset="d", queries=1, documents=1, max_recall_drop=0.005, measured=rows)
    affordable = [v for v in ("near", "far", "lost", "unknown") if variant_choice.within_recall_budget(quality, v)]
    assert affordable == ["near"]
    assert variant_choice.within_recall_budget(msgspec.structs.replace(quality, max_recall_drop=None), "far")
    assert variant_choice.within_recall_budget(None, "far")


def test_the_bundles_own_choice_is_taken_on_a_machine_like_the_exporters(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    assert variant_choice.variant(opened).name == opened.manifest.choice.variant
    assert variant_choice.variant(opened, "onnx").name == "onnx"


def test_a_foreign_choice_is_never_kept_in_silence(foreign: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    assert variant_choice.find_choice(foreign) is None
    assert variant_choice.variant(foreign).name == foreign.manifest.choice.variant
    (message,) = caplog.messages
    assert "was chosen on another cpu (asimd i8mm), but this machine has" in message
    assert "embedship tune" in message
    variant_choice.variant(foreign, "onnx")
    assert len(caplog.messages) == 1, "an explicit name is obeyed"


def test_what_was_measured_here_is_kept_beside_the_bundle_and_taken(foreign: Bundle) -> None:
    made = here(foreign, "onnx-int8")
    assert variant_choice.save(foreign, made) == foreign.folder.with_name("bundle.choice.json")
    assert variant_choice.load(foreign) == variant_choice.find_choice(foreign) == made
    assert variant_choice.variant(foreign).name == "onnx-int8"


def test_a_cache_folder_serves_where_the_bundle_is_read_only(
    foreign: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = variant_choice.save(foreign, here(foreign, "onnx"), tmp_path / "cache" / "deep")
    assert path.parent == tmp_path / "cache" / "deep"
    assert variant_choice.load(foreign) is None
    monkeypatch.setenv(variant_choice.CACHE, str(path.parent))
    assert variant_choice.load(foreign) == here(foreign, "onnx")


def test_a_stored_choice_of_yet_another_machine_is_not_taken(foreign: Bundle) -> None:
    variant_choice.save(foreign, msgspec.structs.replace(here(foreign, "onnx"), machine=FOREIGN))
    assert variant_choice.find_choice(foreign) is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"{"), "damaged"),
        (lambda path: path.write_text(path.read_text().replace('"onnx"', '"onnx-O3"')), "digest does not match"),
    ],
)
def test_a_damaged_stored_choice_is_named_and_not_used(
    foreign: Bundle,
    spoil,
    reason: str,
    caplog: pytest.LogCaptureFixture,  # type: ignore[no-untyped-def]
) -> None:
    spoil(variant_choice.save(foreign, here(foreign, "onnx")))
    assert variant_choice.load(foreign) is None
    assert reason in caplog.text


def test_a_choice_for_a_bundle_that_was_replaced_is_not_used(foreign: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    variant_choice.save(foreign, here(foreign, "onnx"))
    replaced = Bundle(foreign.folder, msgspec.structs.replace(foreign.manifest, digest="0" * 64))
    with caplog.at_level(logging.WARNING):
        assert variant_choice.load(replaced) is None
    assert "belongs to another bundle" in caplog.text


@pytest.mark.parametrize(("missing", "used"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_without_the_runtime_of_the_choice_the_best_of_the_other_is_used(
    bundle: Path, missing: str, used: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Bundle.open(bundle)
    name = f"{missing.removesuffix('runtime')}-int8"
    choice = msgspec.structs.replace(opened.manifest.choice, variant=name, machine=hardware.machine())
    monkeypatch.setattr(variant_choice, "find_choice", lambda _: choice)
    monkeypatch.setattr(variant_choice, "find_spec", lambda runtime: None if runtime == missing else object())
    assert variant_choice.variant(opened).runtime == used
    assert f"{name} needs {missing}, which is not installed here" in caplog.text
    monkeypatch.setattr(variant_choice, "find_spec", lambda _: None)
    assert variant_choice.variant(opened).name == name, "opening it says what to install"
