"""Real measurements of two variants of the real model, in a bundle that was exported on another machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship import hardware, tune, variant_choice
from embedship.bundle import Bundle, MachineInfo, Objective, RetrievalReport, RetrievalResult, VectorCode
from embedship.commands import main
from embedship.encoder import Encoder
from embedship.errors import GateError, MissingExtra, ShapesError
from embedship.golden_texts import GoldenTexts

FOREIGN = MachineInfo(cpu="another cpu", isa=("asimd",), cores=64.0)
NAMES = ("onnx", "openvino-int8")


@pytest.fixture
def foreign(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of two variants whose choice, the slower one, was made on another machine."""
    opened = Bundle.open(bundle)
    kept = [opened.variant(name) for name in NAMES]
    folder = tmp_path / "bundle"
    for name in {name for variant in kept for name in opened.files_of(variant)}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(bundle / name, folder / name)
        (folder / name).unlink()
        os.link(bundle / name, folder / name) if _same_disk(bundle, folder) else (folder / name).write_bytes(
            (bundle / name).read_bytes()
        )
    there = msgspec.structs.replace(opened.manifest.choice, machine=FOREIGN, variant="onnx")
    Bundle.write(folder, msgspec.structs.replace(opened.manifest, variants=tuple(kept), choice=there))
    return folder


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def test_a_foreign_choice_is_measured_again_and_kept(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_AT_START_SECONDS", 600.0)  # a slow machine also has to measure both
    opened = Bundle.open(foreign)
    before = (foreign / "bundle.json").read_bytes()
    settled = tune.choose_variant(opened)
    stored = variant_choice.load(opened)
    assert stored is not None
    assert stored.variant == settled.variant
    assert set(stored.tokens_per_second) == set(stored.latency_seconds) == set(NAMES)
    assert all(speed > 0 for speed in stored.tokens_per_second.values())
    assert settled.warning is not None
    assert "onnx was chosen on another cpu (asimd)" in settled.warning
    assert "bundle.choice.json" in settled.warning
    assert (foreign / "bundle.json").read_bytes() == before
    assert opened.verify() == len(opened.manifest.files), "nothing was put into the bundle"
    assert tune.choose_variant(opened) == (settled.variant, None), "the next start measures nothing"
    with Encoder.open(foreign) as encoder:
        assert encoder.variant.name == settled.variant


def test_what_cannot_be_kept_is_said(foreign: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    warning = tune.choose_variant(Bundle.open(foreign), occupied).warning
    assert warning is not None
    assert "not stored" in warning
    assert "--cache (EMBEDSHIP_CACHE)" in warning


def test_no_variant_is_begun_after_the_limit(foreign: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = Bundle.open(foreign)
    made = tune.remeasure(opened, Objective.THROUGHPUT, round_seconds=0.1, limit_seconds=0.0)
    assert list(made.tokens_per_second) == ["onnx"]
    assert made.variant == "onnx"
    assert "openvino-int8 was not measured" in caplog.text


def test_the_quality_budget_of_the_export_holds_elsewhere_too(foreign: Path) -> None:
    opened = Bundle.open(foreign)

    def row(variant: str, recall: float) -> RetrievalResult:
        return RetrievalResult(variant=variant, dimension=384, code=VectorCode.FLOAT32, rescored=False,
            bytes_per_vector=1536,
                        metrics={"recall@10": recall})  # fmt: skip

    def within(**recalls: float) -> Bundle:
        rows = tuple(row(name.replace("_", "-"), recall) for name, recall in recalls.items())
        quality = RetrievalReport(dataset="d", queries=1, documents=1, max_recall_drop=0.005, measured=rows)
        return Bundle(opened.folder, msgspec.structs.replace(opened.manifest, quality=quality))

    def tuned(bundle: Bundle) -> str:
        return tune.remeasure(bundle, Objective.SIZE, round_seconds=0.1).variant

    assert tuned(within(checkpoint=0.8, onnx=0.8, openvino_int8=0.799)) == "openvino-int8"
    assert tuned(within(checkpoint=0.8, onnx=0.8, openvino_int8=0.79)) == "onnx"
    with pytest.raises(GateError, match="no variant that runs on this machine stays within"):
        tuned(within(checkpoint=0.8, onnx=0.7, openvino_int8=0.7))


def test_the_verb(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in GoldenTexts.load(Bundle.open(foreign)).real))
    options = ["--objective", "size", "--texts", str(texts), "--cache", str(tmp_path / "cache")]
    assert main.run(["tune", str(foreign), *options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["variant"], answer["objective"]) == ("openvino-int8", "size")
    assert Path(answer["file"]).parent == tmp_path / "cache"
    assert main.run(["tune", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_a_choice_whose_runtime_is_not_installed_here_is_made_again(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(foreign)
    here = msgspec.structs.replace(opened.manifest.choice, machine=hardware.machine(), variant="openvino-int8")
    bundle = Bundle.write(foreign, msgspec.structs.replace(opened.manifest, choice=here))
    assert tune.choose_variant(bundle, tmp_path / "a").variant == "openvino-int8"
    real = Encoder.open

    def without_openvino(bundle: Bundle, variant: str, **rest: Any) -> Encoder:
        if variant.startswith("openvino"):
            raise MissingExtra("openvino", "openvino")
        return real(bundle, variant, **rest)

    monkeypatch.setattr(tune, "find_spec", lambda name: None if name == "openvino" else object())
    monkeypatch.setattr(tune.Encoder, "open", without_openvino)
    settled = tune.choose_variant(bundle, tmp_path / "b")
    assert settled.variant == "onnx"
    assert settled.warning is not None
    assert "openvino-int8 needs openvino, which is not installed here" in settled.warning
    assert tune.choose_variant(bundle, tmp_path / "b").warning is None, "kept for the next start"


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_refused_variants_are_replaced_until_one_is_right(foreign: Path, tmp_path: Path, wrong: int) -> None:
    """`wrong` of the two variants have wrong shapes. With none left, the error of the last one is raised."""
    opened = Bundle.open(foreign)
    variant_choice.save(opened, msgspec.structs.replace(opened.manifest.choice, machine=hardware.machine()), tmp_path)
    tried: list[str] = []

    def open_variant(chosen: tune.ChosenVariant) -> tune.ChosenVariant:
        tried.append(chosen.variant)
        if len(tried) <= wrong:
            raise ShapesError(f"{chosen.variant} is wrong")
        return chosen

    if wrong == 2:
        with pytest.raises(ShapesError, match=f"{NAMES[1]} is wrong"):
            tune.open_chosen(opened, tmp_path, open_variant)
        assert tried == list(NAMES)
        return
    used = tune.open_chosen(opened, tmp_path, open_variant)
    assert used.variant == NAMES[wrong]
    assert (used.warning is None) == (wrong == 0)


def test_without_other_variants_a_refused_one_is_an_error(foreign: Path, tmp_path: Path) -> None:
    opened = Bundle.open(foreign)
    only = Bundle(opened.folder, opened.manifest, only=NAMES[0])

    def open_variant(chosen: tune.ChosenVariant) -> None:
        raise ShapesError(f"{chosen.variant} is wrong")

    with pytest.raises(ShapesError, match=f"{NAMES[0]} is wrong"):
        tune.open_chosen(only, tmp_path, open_variant)
