"""`embedship reference` and `embedship drift` as a pipeline calls them: files in, exit codes and a page out."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from embedship import stdlib_docs, variant_choice
from embedship.bundle import MANIFEST, REFERENCE, Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.monitor.drift.detector import MINIMUM
from embedship.monitor.drift.reference import DriftReference
from embedship.serve.offline import references

START = 1_790_000_000
WEEK = 7 * 86_400
COOKING = [f"how long do I {verb} {food}" for verb in ("roast", "braise", "boil", "grill", "steam", "bake")
           for food in ("leeks", "a duck", "chestnuts", "lentils", "a trout", "quinces", "beets", "veal")]  # fmt: skip


class Made(NamedTuple):
    """A bundle's folder with a reference beside it, made by the command; and what the command said."""

    bundle: Path
    reference: Path
    report: dict[str, Any]
    usual: list[str]  # queries like those of the reference


def write(path: Path, texts: Sequence[str], **columns: Sequence[Any]) -> Path:
    rows = [{"text": text, **{name: column[i] for name, column in columns.items()}} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def copied(bundle: Path, target: Path) -> None:
    """A bundle of the test's own to write beside: hard links, so that it costs no disk."""

    def link(source: str, place: str) -> None:
        try:
            os.link(source, place)
        except OSError:
            shutil.copy2(source, place)

    shutil.copytree(bundle, target, copy_function=link)
    opened = Bundle.open(target)
    kept = {"onnx", "onnx-int8", variant_choice.variant(opened).name}  # a reference runs them all
    few = tuple(variant for variant in opened.manifest.variants if variant.name in kept)
    (target / MANIFEST).unlink()
    Bundle.write(target, msgspec.structs.replace(opened.manifest, variants=few))


@pytest.fixture(scope="module")
def made(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = tmp_path_factory.mktemp("reference")
    copied(bundle, work / "bundle")
    texts = [entry.summary for entry in stdlib_docs.entries(800)]
    past = texts[::2]
    queries = write(
        work / "queries.jsonl",
        past,
        session=[f"s{i // 2}" for i in range(len(past))],
        timestamp=[START + i * WEEK / len(past) for i in range(len(past))],
    )
    out = work / "printed.json"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("typer.echo", printed.append)
        assert run(["reference", str(work / "bundle"), str(queries), "--json"]) == 0
    out.write_text(printed[0])
    return Made(work / "bundle", work / "bundle.reference.safetensors", json.loads(printed[0]), texts[1::2])


@pytest.fixture(scope="module")
def usual(made: Made) -> np.ndarray:
    with Encoder.open(made.bundle) as encoder:
        return encoder.encode(made.usual)


@pytest.fixture(scope="module")
def cooking(made: Made) -> np.ndarray:
    with Encoder.open(made.bundle) as encoder:
        return encoder.encode(COOKING)


@pytest.fixture
def log(tmp_path: Path, made: Made) -> Callable[..., Path]:
    """Write an .npz of this model and variant; keywords are its other arrays."""
    opened = Bundle.open(made.bundle)
    bound = {"fingerprint": opened.fingerprint, "variant": variant_choice.variant(opened).name}

    def log(vectors: np.ndarray, **columns: Any) -> Path:
        np.savez(tmp_path / "log.npz", vectors=vectors, **{**bound, **columns})
        return tmp_path / "log.npz"

    return log


def test_a_reference_lies_beside_the_bundle_and_is_the_one_taken(made: Made) -> None:
    opened = Bundle.open(made.bundle)
    found = references.find(opened)
    assert found is not None
    assert found.created
    assert (found.sessions is not None, found.times is not None) == (True, True)
    assert found.vectors.shape == (made.report["vectors"], 384)
    assert set(found.offsets) == {v.name for v in opened.manifest.variants}
    assert opened.verify() == len(opened.manifest.files), "nothing was written into the bundle"


def test_a_reference_says_what_it_promises(made: Made) -> None:
    report = made.report
    assert report["queries"] == 400
    assert report["sessions"] == 200
    assert report["effective"] > 100
    assert report["promised_per_day"] == pytest.approx(1 / 30)
    assert report["threshold"] > 1
    lower, upper = report["measured_interval_per_day"]
    assert 0 <= lower < report["measured_per_day"] < upper
    assert 6.9 < report["days"] < 7


def test_a_reference_that_cannot_keep_its_promise_says_why(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = write(tmp_path / "few.jsonl", made.usual[: MINIMUM - 1])
    out = tmp_path / "few.safetensors"
    assert run(["reference", str(made.bundle), str(queries), "--out", str(out), "--false-alarms", "2 per week"]) == 0
    printed, warned = capsys.readouterr()
    assert DriftReference.load(out).fingerprint == Bundle.open(made.bundle).fingerprint
    assert "8.57" in printed, "two a week in 30 days"
    for sentence in ("99 distinct queries, 100 needed", "no query has a `session`", "no query has a `timestamp`"):
        assert sentence in " ".join(warned.split())


def test_the_same_topics_end_with_0(
    made: Made, usual: np.ndarray, log: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drift", str(made.reference), str(log(usual))]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "No drift: the 400 queries" in printed
    assert "mean shift, relative to no drift" in printed


def test_a_new_topic_ends_with_3_and_says_since_when(
    made: Made,
    usual: np.ndarray,
    cooking: np.ndarray,
    log: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vectors = np.concatenate([usual[:352], cooking])
    path = log(vectors[::-1], times=START + np.arange(400)[::-1] * 60.0)
    page = tmp_path / "drift.html"
    assert run(["drift", str(made.reference), str(path), "--json", "--report", str(page)]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["state"] == "warn"
    assert report["comparison"]["evidence"]["far"]["now"] > 0.1
    assert [block["state"] for block in report["comparison"]["blocks"]] == ["ok", "warn"]
    assert datetime.fromisoformat(report["since"]).timestamp() == START + 200 * 60
    assert page.read_text().count('<svg class="plot') == 4


def test_texts_are_encoded_as_the_service_does(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [*made.usual[:150], *COOKING]
    path = write(tmp_path / "now.jsonl", texts)
    page = tmp_path / "drift.html"
    arguments = ["drift", str(made.reference), str(path), "--bundle", str(made.bundle), "--texts", "5"]
    assert run([*arguments, "--report", str(page)]) == 3
    printed = capsys.readouterr().out
    assert sum(text in printed for text in COOKING) >= 4
    assert sum(text in page.read_text() for text in COOKING) >= 4
    assert stat.S_IMODE(page.stat().st_mode) == 0o600, "it holds what users wrote"
    assert run([*arguments[:-2], "--report", str(page)]) == 3
    assert not any(text in page.read_text() for text in COOKING), "only on request"


def test_another_variant_is_no_drift(made: Made, log: Callable[..., Path], usual: np.ndarray) -> None:
    """The reference is of float32; the log comes from each variant in turn."""
    for name in ("onnx", "onnx-int8"):
        with Encoder.open(made.bundle, name) as encoder:
            vectors = encoder.encode(made.usual)
        assert run(["drift", str(made.reference), str(log(vectors, variant=name))]) == 0


def test_a_fall_of_recall_ends_with_3(
    made: Made, usual: np.ndarray, log: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recall = np.where(np.arange(400) < 200, 1.0, 0.6)
    page = tmp_path / "drift.html"
    path = log(usual, recall=recall)
    assert run(["drift", str(made.reference), str(path), "--recall-baseline", "0.95", "--report", str(page)]) == 3
    assert "Recall has fallen, first seen at query 2" in " ".join(capsys.readouterr().out.split())
    assert "Recall over time" in page.read_text()
    assert page.read_text().count('class="dot alarm"') == 1


@pytest.mark.parametrize(("judged", "options", "needed"), [(400, [], 700), (199, ["--recall-baseline", "0.95"], 200)])
def test_a_recall_that_is_not_followed_is_not_passed_over(
    made: Made,
    usual: np.ndarray,
    log: Callable[..., Path],
    judged: int,
    options: list[str],
    needed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing was found in these queries, and it says that nobody looked at it."""
    recall = np.where(np.arange(400) < judged, 0.0, np.nan)
    assert run(["drift", str(made.reference), str(log(usual, recall=recall)), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Recall was not tested: {judged} queries were judged, {needed} are needed." in said


def test_what_cannot_be_decided_ends_with_1(
    made: Made, usual: np.ndarray, log: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "drift.html"
    assert run(["drift", str(made.reference), str(log(usual[:50])), "--report", str(page)]) == 1
    assert "could not be decided: 50 distinct queries, 100 needed" in " ".join(capsys.readouterr().out.split())
    assert "could not be decided" in page.read_text()


def test_a_log_that_names_no_model_is_taken_with_a_warning(
    made: Made, usual: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "log.npz", vectors=usual)
    assert run(["drift", str(made.reference), str(tmp_path / "log.npz"), "--json"]) == 0
    printed, warned = capsys.readouterr()
    assert "does not say which model encoded it" in " ".join(warned.split())
    assert json.loads(printed)["bound"] is False


@pytest.mark.parametrize(
    ("columns", "code", "reason"),
    [
        ({"fingerprint": "0" * 64}, 4, "belongs to model"),
        ({"vectors": np.ones((200, 8))}, 2, "the reference has 384 dimensions"),
        ({"vectors": np.full((200, 384), np.nan)}, 2, "row 0 of `vectors` contains NaN or infinity"),
        ({"vectors": np.ones((400, 384), dtype=np.int8)}, 2, "`vectors` is int8, not (n, d) float32"),
        ({"vectors": np.ones((400, 48), dtype=np.uint8)}, 2, "`vectors` is uint8, not (n, d) float32"),
        ({"vectors": np.array(["a"] * 400)}, 2, "not (n, d) float32"),
        ({"times": np.ones(3)}, 2, "`times` is float64 of shape (3,), not (n,) Unix seconds"),
        ({"times": 1.8e12 + np.arange(400)}, 2, "`times` must be Unix times in seconds"),
        ({"times": np.full(400, np.nan)}, 2, "Check for milliseconds and NaN"),
        ({"recall": np.full(400, 97.0)}, 2, "`recall` must be (n,) from 0 to 1"),
        ({"sesions": np.ones(200)}, 2, "contains the unknown array 'sesions'. Allowed: vectors"),
        ({"sessions": np.array(["a"] * 400)}, 2, "not (n,) integers"),
    ],
)
def test_a_wrong_log_is_one_sentence(
    made: Made,
    usual: np.ndarray,
    log: Callable[..., Path],
    columns: dict[str, Any],
    code: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vectors = columns.pop("vectors", usual)
    assert run(["drift", str(made.reference), str(log(vectors, **columns))]) == code
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("factor", [7, 0, 0.5])
def test_rows_that_are_not_of_unit_length_are_not_called_drift(
    made: Made, usual: np.ndarray, log: Callable[..., Path], factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = usual.copy()
    usual[3:] *= factor
    assert run(["drift", str(made.reference), str(log(usual))]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"row 3 has length {factor}: divide each row by its length" in said


def test_half_floats_of_unit_rows_are_taken(made: Made, usual: np.ndarray, log: Callable[..., Path]) -> None:
    assert run(["drift", str(made.reference), str(log(usual.astype(np.float16)))]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["drift", "{none}", "{text}"], 2, "is not a drift reference: create one with"),
        (["drift", "{text}", "{text}", "--bundle", "{bundle}"], 4, "is not a drift reference"),
        (["drift", "{reference}", "{text}"], 2, "give --bundle BUNDLE to encode them"),
        (["drift", "{reference}", "{none}.npz"], 2, "cannot be read: No such file"),
        (["drift", "{reference}", "{junk}"], 2, "is not an .npz file of plain arrays"),
        (["drift", "{reference}", "{text}", "--every", "soon"], 2, "--every: interval='soon' is not allowed"),
        (["drift", "{reference}", "{text}", "--false-alarms", "0 per day"], 2, "--false-alarms"),
        (["drift", "{reference}", "{text}", "--report", "{none}/drift.html"], 2, "is not a folder"),
        (["reference", "{bundle}", "{none}"], 2, "cannot be read"),
        (["reference", "{bundle}", "{text}", "--out", "{none}/x"], 2, "is not a folder"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    made: Made, tmp_path: Path, arguments: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 no")
    paths = {
        "bundle": made.bundle,
        "reference": made.reference,
        "text": write(tmp_path / "text.jsonl", ["a"]),
        "junk": tmp_path / "junk.npz",
        "none": tmp_path / "none",
    }
    assert run([argument.format(**paths) for argument in arguments]) == code
    assert reason in " ".join(capsys.readouterr().err.split())


def test_the_reference_in_the_bundle_is_taken_if_none_lies_beside(bundle: Path) -> None:
    found = references.find(Bundle.open(bundle))
    assert found is not None
    assert (found.vectors == DriftReference.load(bundle / REFERENCE).vectors).all()
