"""Input location of a bulk run: a local file or an S3 object. A run reads it several times."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from embedship.errors import UsageError

_BUFFER_BYTES = 1 << 20

Stamp = tuple[int, int | str]  # size in bytes, and a value that changes with the content


class InputLocation(Protocol):
    """A file to read. `str` of it is the name that the user gave."""

    @property
    def name(self) -> str:
        """Last part of the path, such as corpus.jsonl."""

    def open(self) -> BufferedReader:
        """Open the file at its beginning. The reader can seek."""

    def stamp(self) -> Stamp:
        """Return a value that changes if the file changes. Called once per shard; each call is one S3 request.

        Raises UsageError if the file no longer exists.
        """


class LocalFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def open(self) -> BufferedReader:
        return self.path.open("rb")

    def stamp(self) -> Stamp:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise UsageError(f"{self.path} no longer exists") from None
        return stat.st_size, stat.st_mtime_ns

    def __str__(self) -> str:
        return str(self.path)


class S3File:
    """An object s3://BUCKET/KEY, read with the same credentials as `embedship pull`."""

    def __init__(self, address: str) -> None:
        from embedship.transfer.s3 import S3Object

        self._object = S3Object(address.removeprefix("s3://"))
        self._address = address
        self.name = address.rsplit("/", 1)[-1]

    def open(self) -> BufferedReader:
        return BufferedReader(self._object.open(), _BUFFER_BYTES)

    def stamp(self) -> Stamp:
        return self._object.stamp()

    def __str__(self) -> str:
        return self._address


def open_location(address: str) -> InputLocation:
    """Return the location of an existing file. Raises UsageError, or MissingExtra for S3 without its library."""
    if address.startswith("s3://"):
        s3_file = S3File(address)
        s3_file.stamp()
        return s3_file
    if "://" in address:
        raise UsageError(f"{address} is neither a file nor s3://BUCKET/KEY")
    if not Path(address).is_file():
        raise UsageError(f"{address} is not a file: give a JSON Lines or Parquet file")
    return LocalFile(Path(address))


def digest(location: InputLocation) -> str:
    """Return the SHA-256 of the file as hex digits."""
    with location.open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
