"""One file from a source to the disk: resumed where it stopped, verified before it has its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from embedship.errors import UnsafeError
from embedship.files.sealed import SealedFile
from embedship.transfer import BundleSource
from embedship.transfer.errors import AccessDenied, NotFound, TransferInterrupted
from embedship.transfer.retry import RetryPolicy


class ContentHash(Protocol):
    def update(self, piece: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Downloader(NamedTuple):
    """`parts` holds files that are not whole, each named by the sha256 that it will have: it resumes no other's.

    `saw(bytes, fetched)` is called for all that is in place, whether fetched now or found from before.
    """

    source: BundleSource
    parts: Path
    patience: RetryPolicy
    saw: Callable[[int, bool], None]

    def file(self, name: str, listed: SealedFile, to: Path) -> None:
        """Fetch a file. Raises UnsafeError if the source's is not the one that is listed; then `to` is not made."""
        part = self.parts / listed.sha256
        resumed = part.exists()  # and a crash may have garbled it: then all of it is fetched again, once
        if not self._whole(name, listed, part) and not (resumed and self._whole(name, listed, part)):
            raise UnsafeError(f"{self.source.pinned}: its {name} is not the one that bundle.json lists (sha256)")
        to.parent.mkdir(parents=True, exist_ok=True)
        part.replace(to)

    def _whole(self, name: str, listed: SealedFile, part: Path) -> bool:
        """Whether the part is now what is listed; if it cannot become that, it is gone."""
        with open(part, "a+b", opener=_plainly) as file:  # Path.open takes no opener
            hasher, have = _hashed(file)
            self.saw(have, False)
            right = have <= listed.size and self._append(name, file, hasher, have, listed.size)
            file.flush()
            os.fsync(file.fileno())
            reported = file.tell()
        if right and hasher.hexdigest() == listed.sha256:
            return True
        part.unlink()
        self.saw(-reported, False)
        return False

    def _append(self, name: str, file: IO[bytes], hasher: ContentHash, have: int, size: int) -> bool:
        """Whether the source gave exactly `size` bytes in the end; only failures in a row are counted."""
        failed = 0
        while have < size:
            try:
                for piece in self.source.read(name, have):
                    if have + len(piece) > size:
                        return False
                    file.write(piece)
                    hasher.update(piece)
                    have, failed = have + len(piece), 0
                    self.saw(len(piece), True)
                if have < size:
                    raise TransferInterrupted(f"{self.source.pinned} ended {name} after {have} of {size} bytes")
            except TransferInterrupted as error:
                failed += 1
                self.patience.wait(failed, error)
        return True


def small(source: BundleSource, name: str, limit: int, patience: RetryPolicy) -> bytes:
    """A whole file of at most `limit` bytes. Raises UnsafeError for a larger one."""
    found = b""

    def read() -> None:
        nonlocal found
        found = b"".join(_capped(source, name, limit))

    patience.keep(read)
    return found


def optional(source: BundleSource, name: str, limit: int, patience: RetryPolicy) -> bytes | None:
    """None where the source has it not; S3 says so with 403 to whoever may read and not list."""
    try:
        return small(source, name, limit, patience)
    except (NotFound, AccessDenied):
        return None


def _capped(source: BundleSource, name: str, limit: int) -> Iterator[bytes]:
    had = 0
    for piece in source.read(name, 0):
        had += len(piece)
        if had > limit:
            raise UnsafeError(f"{source.pinned}: its {name} has more than {limit} bytes, which no bundle's has")
        yield piece


def _plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _hashed(file: IO[bytes]) -> tuple[ContentHash, int]:
    """The hash of what lies there, and how much that is; the file stands at its end."""
    file.seek(0)
    hasher = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # any seekable file
    return hasher, file.tell()
