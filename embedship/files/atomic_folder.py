"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from safetensors import SafetensorError

from embedship.errors import EmbedshipError, UsageError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
# EFBIG is how a limit on file sizes (ulimit -f) shows itself. Copying names the source, not what it could not write.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ROOM = 1 << 20  # bytes: a disk with less is full, whatever the error says


@contextmanager
def write_folder_atomically(
    target: Path, require_replaceable: Callable[[Path], None], *, open_to_readers: bool = True
) -> Iterator[Path]:
    """Yield an empty folder beside `target`; it takes that name when the block ends well, else it is deleted.

    What lies at `target` already goes through `require_replaceable`, which raises UsageError for all that must stay;
    it is swapped out in one step and deleted afterwards. An empty folder may always be taken. SIGTERM is treated as
    Ctrl-C meanwhile. What a run killed with SIGKILL left behind (`.<name>.building-*`) is removed by the next one.
    With `open_to_readers`, every file gets the mode that the umask allows; else files keep the modes of the block.
    """
    target = target.resolve()
    refuse_occupied(target, require_replaceable)
    with terminable(), _parents(target), _locked_folder(target) as folder, _disk_errors(folder, target):
        yield folder
        if open_to_readers:
            _open_to_readers(folder)
        _sync(folder)
        refuse_occupied(target, require_replaceable)  # hours may have passed
        _place(folder, target)


class PartialDownload(NamedTuple):
    """What is on its way to a target: `files` takes its name in the end; `parts` are not whole yet."""

    files: Path
    parts: Path


@contextmanager
def resumable_folder(target: Path, require_replaceable: Callable[[Path], None]) -> Iterator[PartialDownload]:
    """As `write_folder_atomically`, but what was written stays when the block fails or the process is killed, for the
    next call.

    It lies in `.<name>.incoming`, locked: a second process waits for the first, and then finds what that one made at
    `target`, which goes through `require_replaceable` after the wait. Raises UsageError where nothing can be locked.
    """
    target = target.resolve()
    refuse_occupied(target, require_replaceable)
    work = target.parent / f".{target.name}.incoming"
    with terminable(), _parents(target), _disk_errors(work, target), _kept(work) as incoming:
        refuse_occupied(target, require_replaceable)
        yield incoming
        _open_to_readers(incoming.files)
        _sync(incoming.files)
        refuse_occupied(target, require_replaceable)
        _place(incoming.files, target)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _kept(work: Path) -> Iterator[PartialDownload]:
    """The folder, its own for as long as this process lives. One without a single byte does not stay."""
    lock = _wait_for(work)
    incoming = PartialDownload(work / "files", work / "parts")
    try:
        for folder in incoming:
            folder.mkdir(exist_ok=True)
        yield incoming
    finally:
        for folder in (*incoming, work):
            with contextlib.suppress(OSError):  # not empty, or placed
                folder.rmdir()
        os.close(lock)


def _wait_for(work: Path) -> int:
    while True:
        work.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # whoever had it has placed it and gone: make it again
            descriptor = _opened_as_ours(work)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                os.close(descriptor)
                raise UsageError(
                    f"{work.parent} cannot be locked ({error.strerror}): give a folder of a local disk"
                ) from None
            if work.exists() and os.path.samestat(os.fstat(descriptor), work.stat()):
                return descriptor
            os.close(descriptor)


def _opened_as_ours(work: Path) -> int:
    """A descriptor of the folder. Raises UsageError for one that somebody else made or may write to.

    Its name can be foreseen, so in a shared folder another user may make it first, and change what was checked.
    """
    try:
        descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{work} cannot be used ({error.strerror}): remove it, or give another --out") from None
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o002:
        os.close(descriptor)
        raise UsageError(f"{work} belongs to another user, or others may write to it: give another --out")
    return descriptor


def refuse_occupied(target: Path, require_replaceable: Callable[[Path], None]) -> None:
    """Raise UsageError unless `write_folder_atomically` may write to `target`."""
    if not target.exists():
        return
    if target.is_mount():
        raise UsageError(f"{target} is a mount point and cannot be replaced: give a folder inside it as --out")
    if not target.is_dir() or any(target.iterdir()):
        require_replaceable(target)


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above, and unmake those that were made if nothing comes to lie in them."""
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:  # the innermost first
            with contextlib.suppress(OSError):  # somebody else put something there
                folder.rmdir()
        raise


@contextmanager
def _locked_folder(target: Path) -> Iterator[Path]:
    """A new folder, locked for as long as this process lives: that is how the next run knows it is in use."""
    _sweep(target)
    folder, lock = _new(target)
    try:
        yield folder
    finally:
        # After a swap this is what lay at the target before, after a plain rename nothing at all.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.parent / f".{target.name}.building-{secrets.token_hex(4)}"
        folder.mkdir()
        with contextlib.suppress(FileNotFoundError):  # swept by another run before it was locked: once more
            return folder, _lock(folder)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # some network file systems lock no folder; then `_sweep` deletes none
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not folder.exists():
        os.close(descriptor)
        raise FileNotFoundError(folder)
    return descriptor


def _sweep(target: Path) -> None:
    """Delete what runs that were killed left behind: their lock has gone with them."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.building-[0-9a-f]{{8}}")
    for folder in target.parent.iterdir():
        if ours.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            _delete_unless_locked(folder)


def _delete_unless_locked(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # another run was faster, or it belongs to somebody else
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # in use
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path, target: Path) -> Iterator[None]:
    """A full or failing disk in one sentence. What cannot be read elsewhere is none of ours."""
    cure = "make room there and run it again, or give another --out"
    try:
        yield
    except EmbedshipError:
        raise
    except OSError as error:
        if error.errno not in _DISK and not str(error.filename).startswith(str(folder)):
            raise
        raise EmbedshipError(f"{target} could not be written: {error.strerror}; {cure}") from error
    except (RuntimeError, SafetensorError) as error:
        # Native code has errors of its own, without the number of the system's: safetensors quotes its sentence,
        # OpenVINO 2026.4 says "iostream error". Python's own errors are mistakes of ours, however full the disk is.
        quoted = (words for words in map(os.strerror, _DISK) if words in str(error))
        full = os.strerror(errno.ENOSPC) if shutil.disk_usage(target.parent).free < _ROOM else None
        if (why := next(quoted, full)) is None:
            raise
        raise EmbedshipError(f"{target} could not be written: {why}; {cure}") from error


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that `finally` runs; only the main thread may set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        if callable(ctrl_c := signal.getsignal(signal.SIGINT)):
            ctrl_c(number, frame)
        raise KeyboardInterrupt  # of a background job of a shell, whose Ctrl-C is ignored

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_to_readers(folder: Path) -> None:
    """What the umask allows: safetensors makes files for their owner only, and a server is another user."""
    mask = umask()
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def umask() -> int:
    """The process' umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Everything on the disk before the name is: a rename that outlives its contents would be half a folder."""
    for path in (*folder.rglob("*"), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(new: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        new.rename(target)
    elif not _exchanged(new, target):
        _swapped(new, target)
    _fsync(target.parent)


def _exchanged(new: Path, target: Path) -> bool:
    """Swap two names in one step (Linux renameat2); False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _swapped(new: Path, target: Path) -> None:
    """Swap two names in three steps; the old folder comes back if the second one fails."""
    old = new.with_name(f"{new.name}.old")  # no name that `_sweep` deletes: for a moment it is all there is
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    old.rename(new)
