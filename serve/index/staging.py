"""A folder that appears whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedship.errors import EmbedshipError, UsageError
from embedship.serve.index import manifest

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it takes that name when the block ends well, else it is deleted.

    An index that lies at `out` is swapped out in one step and deleted afterwards. Raises UsageError if anything else
    lies there. A process killed with SIGKILL leaves `.<name>.building-*`, which no one opens.
    """
    out = out.resolve()
    _refuse_others(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.building-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
        _sync(folder)
        _refuse_others(out)  # hours may have passed
        _place(folder, out)
    finally:
        # After a swap this is the old index, after a plain rename nothing at all.
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_others(out: Path) -> None:
    if not out.exists() or _is_empty(out):
        return
    try:
        added = manifest.strangers(out, manifest.read(out))
    except EmbedshipError as error:
        raise UsageError(f"{out} exists and is not a whole index ({error}): remove it, or give another --out") from None
    if added:
        raise UsageError(f"{out} holds more than an index ({', '.join(added)}): remove it, or give another --out")


def _is_empty(out: Path) -> bool:
    if out.is_mount():
        raise UsageError(f"{out} is a mount point and cannot be replaced: give a folder inside it as --out")
    return out.is_dir() and not any(out.iterdir())


def _sync(folder: Path) -> None:
    """Everything on the disk before the name is: a rename that outlives its contents would be a half index."""
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(new: Path, out: Path) -> None:
    if not (out / manifest.MANIFEST).exists():
        new.rename(out)
    elif not _exchanged(new, out):
        _swapped(new, out)
    _fsync(out.parent)


def _exchanged(new: Path, out: Path) -> bool:
    """Swap two names in one step (Linux renameat2); False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(out), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(out))


def _swapped(new: Path, out: Path) -> None:
    """Swap two names in three steps; the old index comes back if the second one fails."""
    old = new.with_name(f"{new.name}.old")
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    old.rename(new)
