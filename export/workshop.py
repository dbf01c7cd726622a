"""The folder an export is made in: beside its target, renamed at the end, gone without a trace if anything fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from embedship.bundle import MANIFEST, strangers
from embedship.errors import UsageError


@contextmanager
def workshop(target: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` if the block ends well, and is removed if it does not.

    An existing `target` is refused, unless it is an empty folder, or a bundle and `force` is given: nothing but a
    bundle is ever replaced. SIGTERM is treated as Ctrl-C meanwhile.
    """
    _refuse_occupied(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _terminable():
            yield folder
            _open_to_readers(folder)
            _move(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_occupied(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists and is no bundle: give --out another name")
    if foreign := _foreign(target):
        raise UsageError(f"{target} holds more than a bundle ({', '.join(foreign[:3])}): give --out another name")
    if not force:
        raise UsageError(f"{target} already holds a bundle: give --out another name, or --force to replace it")


def _foreign(target: Path) -> list[str]:
    """Files that no export put there. Read leniently: a bundle of another version or a damaged one may be replaced."""
    try:
        listed = list(json.loads((target / MANIFEST).read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        listed = []
    return strangers(target, listed)


def _move(folder: Path, target: Path) -> None:
    """Put the old bundle aside first, so that it can be put back if the new one cannot take its place."""
    aside = folder.with_name(f"{folder.name}-old")
    existed = target.exists()
    if existed:
        target.rename(aside)
    try:
        folder.rename(target)
    except BaseException:
        if existed:
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """What the umask allows: mkdtemp and safetensors make things for their owner only, and a server is another user."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that `finally` runs; only the main thread may set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
