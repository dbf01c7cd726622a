import resource
from contextlib import contextmanager

import numpy as np
import pytest

from embedship.monitor import snapshot
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.errors import SnapshotUnreadable
from embedship.monitor.onset import StateSince
from embedship.monitor.recall.rolling import RollingRecall
from embedship.monitor.snapshot import NAME, MonitorState


def remembered(**changes):
    recall = RollingRecall()
    for _ in range(620):
        recall.update(9, 10, now=77.0)
    whole = {
        "fingerprint": "abc", "created": 5.0, "shadow": recall.memory(), "index": "i", "probes": "p",
        "ndcg_baseline": 0.5, "began": {"drift": StateSince("warn", 3.0)},
    }  # fmt: skip
    return MonitorState(**{**whole, **changes})


@pytest.fixture
def window():
    vectors = np.random.default_rng(0).normal(size=(1_000, 384)).astype(np.float32)
    return QueryWindow(vectors, np.arange(1_000.0), np.full(1_000, -1), ("one", None) * 500)


def test_what_was_written_is_read(tmp_path, window):
    size = snapshot.write(tmp_path, remembered(), window)
    found, back = snapshot.read(tmp_path, "abc")
    assert found == remembered()
    for name in ("vectors", "times", "calls"):
        np.testing.assert_array_equal(getattr(back, name), getattr(window, name))
    assert back.texts == window.texts
    assert size == (tmp_path / NAME).stat().st_size < 2_000_000
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_without_queries_and_without_a_file(tmp_path):
    assert snapshot.read(tmp_path, "abc") is None
    snapshot.write(tmp_path, remembered(), None)
    assert snapshot.read(tmp_path, "abc") == (remembered(), None)


def test_another_models_memory_is_refused(tmp_path, window):
    snapshot.write(tmp_path, remembered(), window)
    with pytest.raises(SnapshotUnreadable, match="belongs to model abc, this is xyz"):
        snapshot.read(tmp_path, "xyz")


def test_no_damage_goes_unnoticed(tmp_path, window):
    """Cut short anywhere, or a bit flipped anywhere: read as it was written, or refused."""
    snapshot.write(tmp_path, remembered(), window)
    path = tmp_path / NAME
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 100, *random.integers(0, len(whole), 20).tolist()]:
        path.write_bytes(whole[:cut])
        with pytest.raises(SnapshotUnreadable):
            snapshot.read(tmp_path, "abc")
    for place in [*range(12), *random.integers(8, len(whole), 60).tolist()]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(SnapshotUnreadable):
            snapshot.read(tmp_path, "abc")


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(SnapshotUnreadable):
        snapshot.read(tmp_path, "abc")


@contextmanager
def full_disk(left):
    """No file may grow beyond `left` bytes: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_one_whole(tmp_path, window):
    snapshot.write(tmp_path, remembered(), None)
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        snapshot.write(tmp_path, remembered(created=6.0), window)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert snapshot.read(tmp_path, "abc")[0].created == 5.0
