"""Disks that are full, or for reading only: what cannot be written is said, what is there is read, and it recovers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Condition, Thread

import pytest

from embedship.errors import EmbedshipError
from embedship.serve.documents.changes import DeleteDocument
from embedship.serve.index import IndexKind
from embedship.serve.live import changes_folder
from embedship.serve.live.compaction import CompactionResult, CompactionScheduler
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import WriteRefused

from .conftest import DOCUMENTS, World, nearest

SECONDS = 60.0


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where a test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small(disk: Path, world: World) -> Path:
    return Path(shutil.copytree(world.folders[IndexKind.FLAT], disk / "index"))


def fill(disk: Path) -> Path:
    """Leave no byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return filler


def write_until_refused(live: MutableIndex, world: World) -> int:
    """SQLite may have room in its own files yet. Returns how many were acknowledged."""
    for n in range(1000):
        try:
            live.write([world.put("d0", n % 200)])
        except WriteRefused as error:
            refused = error
            break
    assert refused.full
    assert "the disk of index.live is full: make room, and send it again" in str(refused)
    return n


def test_a_full_disk(disk: Path, small: Path, world: World) -> None:
    with MutableIndex.open(small, world.bundle, writable=True) as live:
        filler = fill(disk)
        acknowledged = write_until_refused(live, world)
        text = (acknowledged - 1) % 200 if acknowledged else 0
        assert nearest(live, world.vectors[[text]], 1) == [["d0"]], "what was acknowledged last, and nothing after it"
        with pytest.raises(WriteRefused):
            live.write([DeleteDocument("d1"), world.put("d2", 100)])
        with pytest.raises(EmbedshipError, match="could not be written: No space left on device"):
            live.compact()
        assert len(nearest(live, world.vectors[:1], 100)[0]) == DOCUMENTS
        filler.unlink()
        assert live.write([DeleteDocument("d1"), world.put("d2", 100)]).deleted == 1
        assert live.compact() is True
        assert nearest(live, world.vectors[[100, text]], 1) == [["d2"], ["d0"]]
        assert [path.name for path in live.folder.glob("*gen-*")] == ["gen-000001"]


def test_a_compaction_that_fails_is_told_and_tried_again(disk: Path, small: Path, world: World) -> None:
    told: list[CompactionResult] = []

    heard = Condition()

    def wait(done: Callable[[], bool]) -> None:
        with heard:
            assert heard.wait_for(done, SECONDS)

    def tell(result: CompactionResult, _: float) -> None:
        with heard:
            told.append(result)
            heard.notify()

    with MutableIndex.open(small, world.bundle, writable=True) as live:
        live.write([world.put(f"d{n}", 100 + n) for n in range(20)])
        filler = fill(disk)
        compaction = CompactionScheduler(live, 0.1, tell, least=1, retry_seconds=0.01)
        try:
            wait(lambda: told.count(CompactionResult.FAILED) > 1)
            filler.unlink()
            wait(lambda: CompactionResult.DONE in told)
        finally:
            compaction.close()
        assert live.size.changes == 0


def test_a_disk_for_reading_only(disk: Path, small: Path, world: World) -> None:
    with MutableIndex.open(small, world.bundle, writable=True) as live:
        live.write([world.put("new", 200), DeleteDocument("d1")])
        live.compact()
        live.write([world.put("d2", 201)])
    assert mount("-o", "remount,ro", str(disk))
    with MutableIndex.open(small, world.bundle, writable=False) as live:
        assert nearest(live, world.vectors[[200, 201]], 1) == [["new"], ["d2"]]
        assert "d1" not in nearest(live, world.vectors[1:2], 100)[0]
    with pytest.raises(EmbedshipError, match=r"index\.live"):
        MutableIndex.open(small, world.bundle, writable=True)
    assert mount("-o", "remount,rw", str(disk))
    with MutableIndex.open(small, world.bundle, writable=True) as live:
        assert live.write([DeleteDocument("d2")]).deleted == 1


@pytest.fixture
def elsewhere(disk: Path, tmp_path: Path) -> Iterator[Path]:
    """The same disk, through a mount for reading only, as a server in a container has it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert mount("--bind", str(disk), str(folder))
    assert mount("-o", "remount,bind,ro", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def within(seconds: float, work: Callable[[], None]) -> None:
    """Fail where it takes longer: a thread that never ends must not hold the tests."""
    failed: list[BaseException] = []

    def worked() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=worked, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it does not end"
    if failed:
        raise failed[0]


def hits(live: MutableIndex, world: World) -> set[str]:
    return set(nearest(live, world.vectors[:1], 100)[0])


@pytest.mark.parametrize("writer_first", [True, False])
def test_who_cannot_write_sees_what_another_writes(
    small: Path, elsewhere: Path, world: World, writer_first: bool
) -> None:
    """The writer was there before and has written nothing yet, or comes later; it is closed, and comes back."""
    MutableIndex.open(small, world.bundle, writable=True).close()

    def work() -> None:
        with ExitStack() as stack:
            openings = [(small, True), (elsewhere / small.name, False)]
            first, second = (
                stack.enter_context(MutableIndex.open(index, world.bundle, writable))
                for index, writable in (openings if writer_first else openings[::-1])
            )
            writer, reader = (first, second) if writer_first else (second, first)
            for n in range(3):
                assert f"d{n}" in hits(reader, world)
                with reader.moment() as before:  # a reader more, opened while nothing is written
                    assert reader.view().version == before.index.version  # type: ignore[attr-defined]
                writer.write([DeleteDocument(f"d{n}")])
                for _ in range(3):
                    assert f"d{n}" not in hits(reader, world)
                if n == 1:
                    writer.compact()
                    assert hits(reader, world) == hits(writer, world)
                writer.close()
                assert f"d{n}" not in hits(reader, world)
                writer = stack.enter_context(MutableIndex.open(small, world.bundle, writable=True))

    within(SECONDS, work)


def test_what_a_killed_writer_left_on_a_disk_for_reading_only(
    disk: Path, small: Path, world: World, tmp_path: Path
) -> None:
    """A copy of the folder while it was open: with its -wal and -shm, empty ones and full ones."""
    with MutableIndex.open(small, world.bundle, writable=True) as live:
        for n in range(2):
            copy = disk / f"copy-{n}"
            shutil.copytree(small, copy)
            shutil.copytree(live.folder, changes_folder(copy))
            live.write([DeleteDocument("d1")])
    assert mount("-o", "remount,ro", str(disk))
    for n, there in enumerate((True, False)):
        with MutableIndex.open(disk / f"copy-{n}", world.bundle, writable=False) as live:
            assert ("d1" in hits(live, world)) is there


def test_a_file_that_is_older_than_before_is_a_sentence(flat: Path, world: World, tmp_path: Path) -> None:
    """Somebody put a copy in its place: it was asked again and again, without an end."""
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        live.write([DeleteDocument("d1")])
    older = tmp_path / "older"
    shutil.copytree(changes_folder(flat), older)
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        live.write([DeleteDocument("d2")])
    with MutableIndex.open(flat, world.bundle, writable=False) as reader:
        reader._readers.pop().connection.close()  # as if it were lent
        shutil.rmtree(changes_folder(flat))
        shutil.copytree(older, changes_folder(flat))

        def work() -> None:
            with pytest.raises(EmbedshipError, match="is older than it was: if a copy took its place, start again"):
                reader.view()

        within(SECONDS, work)


def test_a_folder_that_is_removed_takes_no_writes(flat: Path, world: World) -> None:
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        shutil.rmtree(live.folder)
        with pytest.raises(WriteRefused, match="was removed while it was open"):
            live.write([DeleteDocument("d1")])
        assert nearest(live, world.vectors[1:2], 1) == [["d1"]]
