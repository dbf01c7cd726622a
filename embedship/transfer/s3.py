"""Files of an S3 bucket, of Amazon's or of any that speaks S3: a bundle's below a prefix, or one of texts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import RawIOBase
from typing import Any, TypeVar
from urllib.parse import urlsplit

from embedship.errors import MissingExtra, UsageError
from embedship.transfer.errors import AccessDenied, NotFound, TransferInterrupted
from embedship.transfer.web import PIECE, is_loopback

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store
except ModuleNotFoundError:
    raise MissingExtra("obstore", "pull") from None

Answer = TypeVar("Answer")


class S3Source:
    """`s3://bucket/prefix`. Credentials, region and endpoint are AWS_* variables, else the machine's own role."""

    def __init__(self, address: str) -> None:
        bucket, prefix = _parted(address, "s3://BUCKET/PREFIX")
        self.pinned = f"s3://{address.rstrip('/')}"
        endpoint = _endpoint()
        self.proves_itself = endpoint is None or is_loopback(endpoint)
        # Patience tries again, from where it stood; a day is for a whole file, a stalled stream is `read_timeout`'s.
        self._store = _store(self.pinned, bucket, prefix.strip("/"), retries=0, whole=timedelta(days=1))

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        try:
            found = obstore.get(self._store, name, options={"range": {"offset": offset}} if offset else {})
            for piece in found.stream(min_chunk_size=PIECE):
                yield bytes(piece)
        except (FileNotFoundError, BaseError) as error:
            raise _said(error, self.pinned, name) from None


class S3Object:
    """One file of a bucket, read in pieces from anywhere in it; what fails for a moment is asked for again."""

    def __init__(self, address: str) -> None:
        bucket, self._key = _parted(address, "s3://BUCKET/KEY")
        if not self._key or self._key.endswith("/"):
            raise UsageError(f"s3://{address}: give s3://BUCKET/KEY")
        self._address = f"s3://{address}"
        self._store = _store(self._address, bucket, "", retries=5, whole=timedelta(minutes=5))

    def stamp(self) -> tuple[int, str]:
        """Size and ETag. Raises UsageError if there is no such file, TransferError."""
        meta = self.asked(lambda: obstore.head(self._store, self._key))
        return meta["size"], meta["e_tag"] or str(meta["last_modified"])

    def open(self) -> S3Content:
        return S3Content(self, self.asked(lambda: obstore.open_reader(self._store, self._key, buffer_size=PIECE)))

    def asked(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except FileNotFoundError:
            raise UsageError(f"{self._address} is no file that these credentials see") from None
        except BaseError as error:
            raise _said(error, self._address, "such file") from None


class S3Content(RawIOBase):
    """The file as Python reads one."""

    def __init__(self, of: S3Object, reader: Any) -> None:
        self._of, self._reader = of, reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = bytes(self._of.asked(lambda: self._reader.read(len(buffer))))
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _parted(address: str, form: str) -> tuple[str, str]:
    found = re.fullmatch(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", address)
    if not found:
        raise UsageError(f"s3://{address}: give {form}")
    return found[1], found[2] or ""


def _endpoint() -> str | None:
    """The host that is asked in the clear, if the AWS_* variables name one."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""))
    return endpoint.hostname or "" if endpoint.scheme == "http" else None


def _store(shown: str, bucket: str, prefix: str, retries: int, whole: timedelta) -> S3Store:
    """`whole` is the time that one answer may take."""
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": _endpoint() is not None,
                "connect_timeout": timedelta(seconds=10),
                "timeout": whole,
                "read_timeout": timedelta(seconds=60),
            },
            retry_config={"max_retries": retries},
        )
    except BaseError as error:
        raise UsageError(f"{shown} cannot be opened ({type(error).__name__}): look at the AWS_* variables") from None


def _said(error: Exception, shown: str, name: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{shown} has no {name}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return AccessDenied(f"{shown} may not be read with these credentials: look at the AWS_* variables")
    return TransferInterrupted(f"{shown} cannot be reached, or failed ({type(error).__name__}): is it up?")
