from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from embedship.errors import EmbedshipError, UsageError
from embedship.files import atomic_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    atomic_file.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_it_unless_it_is_private(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        atomic_file.write(tmp_path / "page", b"")
        atomic_file.write(tmp_path / "texts", b"", private=True)
    finally:
        os.umask(mask)
    assert (mode(tmp_path / "page"), mode(tmp_path / "texts")) == (0o644, 0o600)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EmbedshipError, match="No space left on device; make room"):
        atomic_file.write(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    atomic_file.check_writable(path, force=False)
    path.write_text("old")
    atomic_file.check_writable(path, force=True)
    with pytest.raises(UsageError, match="exists: give --force"):
        atomic_file.check_writable(path, force=False)
    with pytest.raises(UsageError, match="is a folder"):
        atomic_file.check_writable(tmp_path, force=True)
    with pytest.raises(UsageError, match="is no folder"):
        atomic_file.check_writable(tmp_path / "none" / "report.html", force=False)
