"""Atomic folder: it appears complete or not at all."""

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
# A limit on file sizes (ulimit -f) gives EFBIG. The file name of these errors is not checked, because a failed copy
# names the file that was read, not the one that could not be written.
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_DISK_BYTES = 1 << 20  # a disk with less free space counts as full, whatever the error says


@contextmanager
def write_folder_atomically(
    target: Path, require_replaceable: Callable[[Path], None], *, open_to_readers: bool = True
) -> Iterator[Path]:
    """Yield an empty folder next to `target`. It gets that name if the block succeeds, else it is deleted.

    If `target` exists, `require_replaceable` is called with it and raises UsageError if it must stay. It is replaced in
    one step and deleted afterwards. An empty folder is always replaced. During the block SIGTERM acts as Ctrl-C. The
    next run removes what a run killed with SIGKILL left behind (`.<name>.building-*`). With `open_to_readers`, every
    file gets the mode that the umask allows; otherwise files keep the modes that the block gave them.
    """
    target = target.resolve()
    refuse_occupied(target, require_replaceable)
    with terminable(), _parents(target), _locked_folder(target) as folder, _disk_errors(folder, target):
        yield folder
        if open_to_readers:
            _open_to_readers(folder)
        _sync(folder)
        refuse_occupied(target, require_replaceable)  # check again, because the block may have taken hours
        _place(folder, target)


class PartialDownload(NamedTuple):
    """Folders of an unfinished download: `files` gets the target's name at the end, `parts` has incomplete files."""

    files: Path
    parts: Path


@contextmanager
def resumable_folder(target: Path, require_replaceable: Callable[[Path], None]) -> Iterator[PartialDownload]:
    """Like `write_folder_atomically`, but a failed block or a killed process leaves its files for the next call.

    They are in `.<name>.incoming`, which is locked. A second process waits for the first, then calls
    `require_replaceable` with the `target` that the first one made. Raises UsageError if the folder cannot be locked.
    """
    target = target.resolve()
    refuse_occupied(target, require_replaceable)
    work = target.parent / f".{target.name}.incoming"
    with terminable(), _parents(target), _disk_errors(work, target), _locked_download(work) as incoming:
        refuse_occupied(target, require_replaceable)
        yield incoming
        _open_to_readers(incoming.files)
        _sync(incoming.files)
        refuse_occupied(target, require_replaceable)
        _place(incoming.files, target)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked_download(work: Path) -> Iterator[PartialDownload]:
    """Yield the download folder, locked while this process lives. At the end it is removed if it has no files."""
    lock = _wait_for(work)
    incoming = PartialDownload(work / "files", work / "parts")
    try:
        for folder in incoming:
            folder.mkdir(exist_ok=True)
        yield incoming
    finally:
        for folder in (*incoming, work):
            with contextlib.suppress(OSError):  # not empty, or already moved to the target
                folder.rmdir()
        os.close(lock)


def _wait_for(work: Path) -> int:
    while True:
        work.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the process that had the lock has moved it: make it again
            descriptor = _open_if_owned(work)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                os.close(descriptor)
                raise UsageError(
                    f"{work.parent} cannot be locked ({error.strerror}): use a folder on a local disk"
                ) from None
            if work.exists() and os.path.samestat(os.fstat(descriptor), work.stat()):
                return descriptor
            os.close(descriptor)


def _open_if_owned(work: Path) -> int:
    """Open the folder and return its descriptor. Raises UsageError if another user made it or may write to it.

    Its name is predictable, so in a shared folder another user could make it first and change files after the check.
    """
    try:
        descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{work} cannot be used ({error.strerror}): remove it, or give another --out") from None
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o002:
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
    """Make the parent folders, and remove those it made if the block fails and they are empty."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:  # innermost first
            with contextlib.suppress(OSError):  # another process has put something into it
                folder.rmdir()
        raise


@contextmanager
def _locked_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder, locked while this process lives. The lock shows the next run that it is in use."""
    _sweep(target)
    folder, lock = _new(target)
    try:
        yield folder
    finally:
        # After an exchange this is the folder that was at the target before. After a plain rename it does not exist.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.parent / f".{target.name}.building-{secrets.token_hex(4)}"
        folder.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another run deleted it before it was locked: try again
            return folder, _lock(folder)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # some network file systems cannot lock folders; then `_sweep` deletes none
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not folder.exists():
        os.close(descriptor)
        raise FileNotFoundError(folder)
    return descriptor


def _sweep(target: Path) -> None:
    """Delete the folders of runs that were killed: their locks ended with them."""
    name = re.compile(rf"\.{re.escape(target.name)}\.building-[0-9a-f]{{8}}")
    for folder in target.parent.iterdir():
        if name.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            _delete_unless_locked(folder)


def _delete_unless_locked(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # another run has deleted it, or it belongs to another user
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # in use
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path, target: Path) -> Iterator[None]:
    """Turn disk errors below `folder` into one EmbedshipError about `target`. Errors of other files pass through."""
    suggestion = "free some space there and run it again, or give another --out"
    try:
        yield
    except EmbedshipError:
        raise
    except OSError as error:
        if error.errno not in _DISK_ERRNOS and not str(error.filename).startswith(str(folder)):
            raise
        raise EmbedshipError(f"{target} could not be written: {error.strerror}; {suggestion}") from error
    except (RuntimeError, SafetensorError) as error:
        # Native code raises its own errors, without an errno: safetensors quotes the system's message, OpenVINO 2026.4
        # says "iostream error". Python's own RuntimeErrors are our bugs even if the disk is full.
        quoted = (message for message in map(os.strerror, _DISK_ERRNOS) if message in str(error))
        full = os.strerror(errno.ENOSPC) if shutil.disk_usage(target.parent).free < _FULL_DISK_BYTES else None
        if (reason := next(quoted, full)) is None:
            raise
        raise EmbedshipError(f"{target} could not be written: {reason}; {suggestion}") from error


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that `finally` blocks run. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        if callable(ctrl_c := signal.getsignal(signal.SIGINT)):
            ctrl_c(number, frame)
        raise KeyboardInterrupt  # a shell's background job ignores Ctrl-C, so SIGINT has no handler to call

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_to_readers(folder: Path) -> None:
    """Give files the mode that the umask allows: safetensors makes them private, but a server is another user."""
    mask = umask()
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Write the files to disk before the rename, because after a crash a file could have its name but no contents."""
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
    elif not _exchange(new, target):
        _swap_in_steps(new, target)
    _fsync(target.parent)


def _exchange(new: Path, target: Path) -> bool:
    """Swap two names in one step (Linux renameat2). Returns False if the system or the file system cannot do it."""
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


def _swap_in_steps(new: Path, target: Path) -> None:
    """Swap two names in three steps. If the second step fails, the old folder gets its name back."""
    old = new.with_name(f"{new.name}.old")  # a name that `_sweep` does not delete, because it may be the only copy
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    old.rename(new)
