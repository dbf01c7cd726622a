"""Downloader: fetches one file from a source, resumes where it stopped, and verifies it before it gets its name."""

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
    """A running hash, as hashlib's."""

    def update(self, piece: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Downloader(NamedTuple):
    """Downloads files of one source.

    `parts` has the incomplete files, each named by its expected sha256, so a part is resumed only for that content.
    `advance(bytes, fetched)` is called for all bytes that are in place: fetched now, or present from before.
    """

    source: BundleSource
    parts: Path
    retry: RetryPolicy
    advance: Callable[[int, bool], None]

    def file(self, name: str, listed: SealedFile, to: Path) -> None:
        """Fetch a file to `to`. Raises UnsafeError, and makes no file, if it differs from the listed one."""
        part = self.parts / listed.sha256
        resumed = part.exists()  # a crash may have damaged it: if it turns out wrong, it is fetched again once
        if not self._complete(name, listed, part) and not (resumed and self._complete(name, listed, part)):
            raise UnsafeError(f"{self.source.pinned}: its {name} is not the file that bundle.json lists (sha256)")
        to.parent.mkdir(parents=True, exist_ok=True)
        part.replace(to)

    def _complete(self, name: str, listed: SealedFile, part: Path) -> bool:
        """Fetch the rest of a part, and return whether it is the listed file. If it is not, the part is deleted."""
        with open(part, "a+b", opener=_open_without_links) as file:  # Path.open has no opener
            hasher, size = _hash_present(file)
            self.advance(size, False)
            right = size <= listed.size and self._append(name, file, hasher, size, listed.size)
            file.flush()
            os.fsync(file.fileno())
            reported = file.tell()
        if right and hasher.hexdigest() == listed.sha256:
            return True
        part.unlink()
        self.advance(-reported, False)
        return False

    def _append(self, name: str, file: IO[bytes], hasher: ContentHash, offset: int, size: int) -> bool:
        """Append the rest, and return whether the source sent exactly `size` bytes. A success resets the failures."""
        failed = 0
        while offset < size:
            try:
                for piece in self.source.read(name, offset):
                    if offset + len(piece) > size:
                        return False
                    file.write(piece)
                    hasher.update(piece)
                    offset, failed = offset + len(piece), 0
                    self.advance(len(piece), True)
                if offset < size:
                    raise TransferInterrupted(f"{self.source.pinned} ended {name} after {offset} of {size} bytes")
            except TransferInterrupted as error:
                failed += 1
                self.retry.wait(failed, error)
        return True


def small(source: BundleSource, name: str, limit: int, retry: RetryPolicy) -> bytes:
    """Return a whole file of at most `limit` bytes. Raises UnsafeError for a larger one."""
    content = b""

    def read() -> None:
        nonlocal content
        content = b"".join(_capped(source, name, limit))

    retry.run(read)
    return content


def optional(source: BundleSource, name: str, limit: int, retry: RetryPolicy) -> bytes | None:
    """Return a whole file, or None if the source does not have it.

    S3 answers 403 for a missing file to clients that may read but not list.
    """
    try:
        return small(source, name, limit, retry)
    except (NotFound, AccessDenied):
        return None


def _capped(source: BundleSource, name: str, limit: int) -> Iterator[bytes]:
    size = 0
    for piece in source.read(name, 0):
        size += len(piece)
        if size > limit:
            raise UnsafeError(f"{source.pinned}: its {name} has more than {limit} bytes, the limit for this file")
        yield piece


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _hash_present(file: IO[bytes]) -> tuple[ContentHash, int]:
    """Return the hash and the size of the file's content. The file position is at its end afterwards."""
    file.seek(0)
    hasher = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # any seekable file
    return hasher, file.tell()
