"""Where the input of a bulk run lies: a file of this machine, or one of an S3 bucket. It is read several times."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from embedship.errors import UsageError

_PIECE = 1 << 20

Stamp = tuple[int, int | str]  # size, and what changes whenever the content does


class InputLocation(Protocol):
    """`str` of it is what the user named."""

    @property
    def name(self) -> str:
        """Its last part, such as corpus.jsonl."""

    def open(self) -> BufferedReader:
        """From the beginning; it can seek."""

    def stamp(self) -> Stamp:
        """Asked once a shard: in S3 a request. Raises UsageError where it is there no more."""


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
            raise UsageError(f"{self.path} is there no more") from None
        return stat.st_size, stat.st_mtime_ns

    def __str__(self) -> str:
        return str(self.path)


class S3File:
    """`s3://bucket/key`, with the credentials that `embedship pull` takes."""

    def __init__(self, address: str) -> None:
        from embedship.transfer.s3 import S3Object

        self._object = S3Object(address.removeprefix("s3://"))
        self._address = address
        self.name = address.rsplit("/", 1)[-1]

    def open(self) -> BufferedReader:
        return BufferedReader(self._object.open(), _PIECE)

    def stamp(self) -> Stamp:
        return self._object.stamp()

    def __str__(self) -> str:
        return self._address


def place(address: str) -> InputLocation:
    """Raises UsageError where there is no such thing, MissingExtra for S3 without its library."""
    if address.startswith("s3://"):
        found = S3File(address)
        found.stamp()
        return found
    if "://" in address:
        raise UsageError(f"{address} is neither a file nor s3://BUCKET/KEY")
    if not Path(address).is_file():
        raise UsageError(f"{address} is no file: name JSON Lines or Parquet")
    return LocalFile(Path(address))


def digest(place: InputLocation) -> str:
    with place.open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
