"""One file, from sources that no server would be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedship.errors import UnsafeError
from embedship.files.sealed import SealedFile
from embedship.transfer.download import Downloader, small
from embedship.transfer.errors import TransferError, TransferInterrupted
from embedship.transfer.retry import RetryPolicy

RIGHT = bytes(range(200))
LISTED = SealedFile(sha256=hashlib.sha256(RIGHT).hexdigest(), size=len(RIGHT))


class Told:
    """Gives each read what it was told to give, from the offset on; an error in the list is raised there."""

    pinned = "told"

    def __init__(self, *answers: list[bytes | TransferError]) -> None:
        self._answers = list(answers)
        self.offsets: list[int] = []

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        for piece in self._answers.pop(0):
            if isinstance(piece, TransferError):
                raise piece
            yield piece


def fetch(source: Told, folder: Path, failures: int = 3) -> int:
    """What lies there in the end, as the meter counted it."""
    there: list[int] = []
    patience = RetryPolicy(failures, sleep=lambda seconds: None)
    (folder / "parts").mkdir(exist_ok=True)
    downloader = Downloader(source, folder / "parts", patience, lambda count, fetched: there.append(count))
    try:
        downloader.file("name", LISTED, folder / "in" / "name")
    finally:
        total = sum(there)
    return total


def test_each_loss_is_taken_up_where_it_was(tmp_path: Path) -> None:
    lost = TransferInterrupted("lost")
    source = Told([RIGHT[:50], lost], [lost], [RIGHT[50:90]], [lost], [lost], [RIGHT[90:]])
    assert fetch(source, tmp_path, failures=4) == LISTED.size
    assert source.offsets == [0, 50, 50, 90, 90, 90]
    assert (tmp_path / "in" / "name").read_bytes() == RIGHT
    assert list((tmp_path / "parts").iterdir()) == []


def test_failures_in_a_row_end_it_and_the_part_stays(tmp_path: Path) -> None:
    source = Told([RIGHT[:50]], [], [], [])
    with pytest.raises(TransferInterrupted, match="after 50 of 200 bytes"):
        fetch(source, tmp_path)
    assert (tmp_path / "parts" / LISTED.sha256).read_bytes() == RIGHT[:50]
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("wrong", [bytes(200), bytes(201), RIGHT + b"x"])
def test_wrong_bytes_are_fetched_once_and_kept_nowhere(tmp_path: Path, wrong: bytes) -> None:
    source = Told([wrong])
    with pytest.raises(UnsafeError, match="is not the one"):
        fetch(source, tmp_path)
    assert source.offsets == [0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("garbled", [bytes(50), bytes(200), bytes(300)])
def test_a_garbled_part_costs_one_more_fetch(tmp_path: Path, garbled: bytes) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / LISTED.sha256).write_bytes(garbled)
    anew = Told([RIGHT[50:]], [RIGHT]) if len(garbled) == 50 else Told([RIGHT])
    assert fetch(anew, tmp_path) == LISTED.size, "and the meter knows"
    assert (tmp_path / "in" / "name").read_bytes() == RIGHT


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / LISTED.sha256).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        fetch(Told([RIGHT]), tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_small_file_is_small() -> None:
    patience = RetryPolicy(2, sleep=lambda seconds: None)
    assert small(Told([b"ab", TransferInterrupted("lost")], [b"ab", b"c"]), "name", 3, patience) == b"abc"
    with pytest.raises(UnsafeError, match="more than 2 bytes"):
        small(Told([b"ab", b"c"]), "name", 2, patience)
