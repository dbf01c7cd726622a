from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedship.errors import EmbedshipError, UsageError
from embedship.files import atomic_folder
from embedship.files.atomic_folder import resumable_folder, write_folder_atomically


def anything(target: Path) -> None:
    """Accept any target as replaceable."""


def nothing(target: Path) -> None:
    raise UsageError(f"{target} must stay")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_ends_well_lands_at_the_target_and_others_can_read_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with write_folder_atomically(target, nothing) as folder:
        assert not target.exists()
        (folder / "inner").mkdir(mode=0o700)
        (folder / "inner" / "file").touch(mode=0o600)
    assert names(target.parent) == ["folder"]
    assert (target.stat().st_mode & 0o055, (target / "inner").stat().st_mode & 0o055) == (0o055, 0o055)
    assert (target / "inner" / "file").stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with write_folder_atomically(tmp_path / "folder", nothing) as folder:
            (folder / "file").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_sigterm_leaves_nothing_either(tmp_path: Path) -> None:
    """In a process of its own, so that a deadly signal does not end other tests."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from embedship.files.atomic_folder import write_folder_atomically as write\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "try:\n"
        "    with write(Path(sys.argv[1]), lambda target: None): os.kill(os.getpid(), signal.SIGTERM)\n"
        "except KeyboardInterrupt: sys.exit(0 if signal.getsignal(signal.SIGTERM) is before else 3)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path / "folder")], timeout=60, check=False)
    assert done.returncode == 0
    assert names(tmp_path) == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with write_folder_atomically(tmp_path / "folder", nothing) as folder:
        (folder / "file").touch()
    assert names(tmp_path / "folder") == ["file"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_must_stay_stays(tmp_path: Path, what: str) -> None:
    target = tmp_path / "target"
    precious = target if what == "file" else target / "precious"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(UsageError, match="must stay"), write_folder_atomically(target, nothing):
        pass
    assert precious.read_text() == "precious"
    assert names(tmp_path) == ["target"]


def test_what_turns_up_meanwhile_stays_too(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def meanwhile() -> None:
        with write_folder_atomically(target, nothing):
            target.mkdir()
            (target / "precious").touch()

    with pytest.raises(UsageError, match="must stay"):
        meanwhile()
    assert names(tmp_path) == ["target"]
    assert names(target) == ["precious"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with write_folder_atomically(tmp_path / "folder", anything) as folder:
            (folder / name).touch()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


_UNTIL_KILLED = """
import sys
from pathlib import Path
from embedship.files.atomic_folder import write_folder_atomically
with write_folder_atomically(Path(sys.argv[1]), lambda target: None) as folder:
    (folder / "half").touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_run(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that is in the middle of writing `target`."""
    command = [sys.executable, "-P", "-c", _UNTIL_KILLED, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with another_run(target) as process:
        process.kill()
        process.wait()
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".folder.building-")
        mine = tmp_path / ".folder.building-notes"
        mine.touch()
        with write_folder_atomically(target, nothing):
            pass
    assert names(tmp_path) == [mine.name, "folder"]


def test_the_folder_of_a_run_under_way_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with another_run(target) as process:
        with write_folder_atomically(target, anything) as folder:
            (folder / "first").touch()
        (other,) = (path for path in tmp_path.iterdir() if path != target)
        assert names(other) == ["half"]
        process.communicate()  # it ends well, and replaces what was finished before
    assert process.returncode == 0
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["half"]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit files to `size` bytes, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    cause = "folder could not be written: File too large; free some space"
    with (
        largest_file(10),
        pytest.raises(EmbedshipError, match=cause),
        write_folder_atomically(target, nothing) as folder,
    ):
        (folder / "file").write_bytes(bytes(20))
    assert names(tmp_path) == []


@pytest.mark.parametrize("free", [0, 1 << 30])
@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError])
def test_only_native_errors_are_laid_to_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], free: int
) -> None:
    """An error of our own code is not reported as a full disk."""
    monkeypatch.setattr(atomic_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    disk = error is RuntimeError and not free
    with pytest.raises(EmbedshipError if disk else error), write_folder_atomically(tmp_path / "folder", nothing):
        raise error("iostream error")


def test_an_error_of_another_file_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_folder_atomically(tmp_path / "folder", nothing):
        (tmp_path / "texts").read_text()
    assert names(tmp_path) == []


@pytest.mark.parametrize("swap", [atomic_folder._exchange, atomic_folder._swap_in_steps])
def test_both_ways_to_swap(tmp_path: Path, swap: object) -> None:
    for name in ("new", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "was").write_text(name)
    assert callable(swap)
    swap(tmp_path / "new", tmp_path / "out")
    assert names(tmp_path) == ["new", "out"]
    assert (tmp_path / "out" / "was").read_text() == "new"
    assert (tmp_path / "new" / "was").read_text() == "out"


def test_a_swap_that_fails_halfway_brings_the_old_one_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "was").write_text("out")
    with pytest.raises(OSError, match="No such file"):
        atomic_folder._swap_in_steps(tmp_path / "missing", tmp_path / "out")
    assert (tmp_path / "out" / "was").read_text() == "out"


def test_what_is_resumed_stays_until_it_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    def fail() -> None:
        with resumable_folder(target, nothing) as incoming:
            (incoming.files / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == [".folder.incoming"]
    with resumable_folder(target, nothing) as incoming:
        assert names(incoming.files) == ["half"]
        (incoming.parts / "part").touch()
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["half"]


def _by_another_user(work: Path) -> None:
    os.chown(work, 12_345, 12_345)


def _writable_by_others(work: Path) -> None:
    work.chmod(0o777)


def _link(work: Path) -> None:
    work.rmdir()
    (work.parent / "elsewhere").mkdir()
    work.symlink_to(work.parent / "elsewhere")


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(
            _by_another_user, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
        ),
        _writable_by_others,
        _link,
    ],
)
def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    """Its name is known, so in a shared folder another user can make it first."""
    work = tmp_path / ".folder.incoming"
    work.mkdir()
    prepare(work)
    wrong = r"belongs to another user, or others may write to it|cannot be used"
    with pytest.raises(UsageError, match=wrong), resumable_folder(tmp_path / "folder", nothing):
        pytest.fail("it was used")
    assert not (tmp_path / "folder").exists()


def test_nothing_written_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with resumable_folder(tmp_path / "new" / "folder", nothing):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_what_is_resumed_replaces_what_may_go(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(UsageError, match="must stay"), resumable_folder(target, nothing):
        pass
    with resumable_folder(target, anything) as incoming:
        (incoming.files / "new").touch()
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["new"]
