import json

import numpy as np
import pytest
from safetensors.numpy import save

from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.drift.reference import KEY, DriftReference
from embedship.monitor.errors import InvalidSetting, InvalidVectors, ReferenceMismatch, ReferenceUnreadable

ROWS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def test_save_and_load(tmp_path):
    DriftReference.fit(ROWS, "abc", prompt="query: ", created="2026-01-01").save(tmp_path / "r")
    loaded = DriftReference.load(tmp_path / "r")
    np.testing.assert_array_equal(loaded.vectors, ROWS)
    assert (loaded.fingerprint, loaded.prompt, loaded.created) == ("abc", "query: ", "2026-01-01")


def test_all_that_was_fitted_is_kept(tmp_path):
    sessions, times = np.repeat(np.arange(25), 2), np.linspace(0, 86_400, 50)
    fitted = DriftReference.fit(
        ROWS,
        "abc",
        sessions=sessions,
        times=times,
        variants={"onnx-int8": ROWS + np.float32(0.5), "onnx-O3": ROWS},
        window=20,
        false_alarms=FalseAlarms.parse("2 per week"),
        interval_seconds=600,
    )
    fitted.save(tmp_path / "r")
    loaded = DriftReference.load(tmp_path / "r")
    np.testing.assert_array_equal(loaded.sessions, sessions)
    np.testing.assert_array_equal(loaded.times, times)
    np.testing.assert_allclose(loaded.offsets["onnx-int8"], 0.5)
    assert sorted(loaded.offsets) == ["onnx-O3", "onnx-int8"]
    assert (loaded.calibration, loaded.promise, loaded.queries) == (fitted.calibration, fitted.promise, 50)
    assert loaded.promise.false_alarms == FalseAlarms.parse("2 per week")
    assert loaded.promise.threshold == loaded.calibration.threshold(2 / 7 / 144)
    assert len(loaded.calibration.tails) == 2  # blocks: 25 rows are the least


def test_whole_sessions_are_drawn():
    sessions = np.repeat(np.arange(10), 5)
    kept = DriftReference.fit(ROWS, "abc", sessions=sessions, maximum=20).sessions
    assert np.unique(kept, return_counts=True)[1].tolist() == [5] * 4


def test_too_few_sessions_promise_nothing():
    fitted = DriftReference.fit(ROWS, "abc", sessions=np.arange(50) % 19)
    assert fitted.calibration is fitted.promise is None
    assert DriftReference.fit(ROWS, "abc", sessions=np.arange(50) % 20).promise


def test_columns_of_another_length_are_refused():
    with pytest.raises(InvalidVectors, match="times of shape"):
        DriftReference.fit(ROWS, "abc", times=np.zeros(49))
    with pytest.raises(InvalidVectors, match="onnx-int8 has vectors of shape"):
        DriftReference.fit(ROWS, "abc", variants={"onnx-int8": ROWS[:9]})
    with pytest.raises(InvalidVectors, match="offset of x"):
        DriftReference(vectors=ROWS, fingerprint="abc", offsets={"x": ROWS[0, :2]})


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in "ab":
        DriftReference.fit(ROWS, "abc", maximum=20).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_fit_is_a_seeded_sample_without_repeats():
    repeated = np.concatenate([ROWS, ROWS[::-1]])
    np.testing.assert_array_equal(DriftReference.fit(repeated, "abc").vectors, ROWS)
    first, again, other = (DriftReference.fit(repeated, "abc", maximum=20, seed=seed).vectors for seed in (1, 1, 2))
    assert len(np.unique(first, axis=0)) == 20
    assert {tuple(row) for row in first} <= {tuple(row) for row in ROWS}
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_fit_refuses_what_is_no_sample():
    with pytest.raises(InvalidVectors, match=r"\(0, 4\)"):
        DriftReference.fit(ROWS[:0], "abc")
    with pytest.raises(InvalidVectors, match="NaN"):
        DriftReference.fit(np.full((3, 2), np.nan, dtype=np.float32), "abc")
    with pytest.raises(InvalidSetting, match="maximum=1"):
        DriftReference.fit(ROWS, "abc", maximum=1)
    with pytest.raises(InvalidVectors, match="float64"):
        DriftReference(vectors=ROWS.astype(np.float64), fingerprint="abc")


def test_require_names_both_models_and_the_cure():
    reference = DriftReference.fit(ROWS, "a" * 64)
    reference.require("a" * 64)
    with pytest.raises(ReferenceMismatch, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb.*fit a reference"):
        reference.require("b" * 64)


HEADER = (
    '{"format": %d, "fingerprint": "f", "prompt": "", "created": "", "queries": 50, "calibration": null, '
    '"promise": null%s}'
)
BEFORE = {
    "format": 2,
    "fingerprint": "f",
    "prompt": "query: ",
    "created": "2026-11-01",
    "queries": 400,
    "calibration": {"window": 20, "tails": [{"shape": 9, "loc": 0, "scale": 1}], "held_out_windows": 240},
    "promise": {"false_alarms": {"alarms": 2, "seconds": 604800}, "interval_seconds": 600, "threshold": 9},
}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a drift reference"),
        (b"garbage of some length, surely not safetensors", "not a drift reference"),
        (save({"vectors": ROWS}, {KEY: HEADER % (3, "")})[:-9], "not a drift reference"),
        (save({"vectors": ROWS}), "not a drift reference"),
        (save({"vectors": ROWS}, {KEY: "{"}), "not a drift reference"),
        (save({"vectors": ROWS}, {KEY: HEADER % (3, ', "more": 1')}), "more"),
        (
            save({"vectors": ROWS}, {KEY: HEADER % (1, "")}),
            "format 1, this version reads 3: fit it again, with `embedship reference`",
        ),
    ],
)
def test_load_of_a_foreign_file_says_so(tmp_path, content, why):
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ReferenceUnreadable, match=why):
        DriftReference.load(tmp_path / "r")


@pytest.mark.parametrize("header", [HEADER % (3, ""), json.dumps(BEFORE)], ids=["format 3", "format 2"])
@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"other": ROWS}, "vectors"),
        ({"vectors": ROWS.astype(np.float16)}, "float16"),
        ({"vectors": ROWS * np.nan}, "vectors hold NaN"),
        ({"vectors": ROWS[0]}, r"\(4,\) float32"),
        ({"vectors": ROWS[:0]}, r"\(0, 4\) float32"),
        ({"vectors": ROWS, "times": np.zeros(49)}, "times of shape"),
        ({"vectors": ROWS, "times": np.full(50, np.nan)}, "times hold NaN"),
        ({"vectors": ROWS, "sessions": np.zeros(49, dtype=np.int64)}, "sessions of shape"),
        ({"vectors": ROWS, "sessions": np.full(50, np.nan)}, "sessions are whole numbers"),
        ({"vectors": ROWS, "offset:x": ROWS[0, :2].copy()}, "offset of x"),
    ],
)
def test_load_of_bad_tensors_says_so(tmp_path, header, tensors, why):
    (tmp_path / "r").write_bytes(save(tensors, {KEY: header}))
    with pytest.raises(ReferenceUnreadable, match=why):
        DriftReference.load(tmp_path / "r")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("calibration", "window", 0),
        ("calibration", "window", 10**30),
        ("promise", "interval_seconds", 0),
        ("promise", "false_alarms", {"alarms": 0, "seconds": 1}),
    ],
)
def test_load_of_terms_that_cannot_be_met_says_so(tmp_path, part, key, value):
    header = BEFORE | {part: BEFORE[part] | {key: value}}
    (tmp_path / "r").write_bytes(save({"vectors": ROWS}, {KEY: json.dumps(header)}))
    with pytest.raises(ReferenceUnreadable, match=key):
        DriftReference.load(tmp_path / "r")


@pytest.mark.parametrize(
    "tensors",
    [
        {"vectors": ROWS[:3]},
        {"vectors": np.ones((50, 4), dtype=np.float32)},
        {"vectors": ROWS, "sessions": np.zeros(50, dtype=np.int64)},
    ],
    ids=["three rows", "all alike", "one session"],
)
def test_a_reference_of_the_score_before_with_too_little_to_learn_from_promises_nothing(tmp_path, tensors):
    (tmp_path / "r").write_bytes(save(tensors, {KEY: json.dumps(BEFORE)}))
    calibrated = DriftReference.load(tmp_path / "r").calibrated()
    assert calibrated.calibration is calibrated.promise is calibrated.terms is None


def test_a_reference_of_the_score_before_gets_the_thresholds_of_this_one(tmp_path):
    sessions = np.repeat(np.arange(25), 2)
    tensors = {"vectors": ROWS, "sessions": sessions, "offset:onnx-int8": ROWS[0]}
    (tmp_path / "r").write_bytes(save(tensors, {KEY: json.dumps(BEFORE)}))
    loaded = DriftReference.load(tmp_path / "r")
    fitted = DriftReference.fit(
        ROWS, "f", sessions=sessions, window=20, false_alarms=FalseAlarms.parse("2 per week"), interval_seconds=600
    )
    assert loaded.calibration is loaded.promise is None, "a server is ready without them"
    calibrated = loaded.calibrated()
    assert (calibrated.calibration, calibrated.promise) == (fitted.calibration, fitted.promise)
    assert (loaded.prompt, loaded.created, loaded.queries) == ("query: ", "2026-11-01", 400)
    np.testing.assert_array_equal(loaded.offsets["onnx-int8"], ROWS[0])
    loaded.save(tmp_path / "again")
    assert DriftReference.load(tmp_path / "again").promise == fitted.promise


def test_a_reference_of_the_score_before_that_promised_nothing_still_promises_nothing(tmp_path):
    header = json.dumps(BEFORE | {"calibration": None, "promise": None})
    (tmp_path / "r").write_bytes(save({"vectors": ROWS}, {KEY: header}))
    assert DriftReference.load(tmp_path / "r").calibrated().promise is None


def test_load_of_a_missing_file_or_a_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ReferenceUnreadable, match="cannot open the drift reference"):
            DriftReference.load(path)
