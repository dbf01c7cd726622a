"""S3 sources: a bundle's files below a prefix, or one file of texts. For Amazon's S3 and compatible services."""

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
    """`s3://bucket/prefix`. Credentials, region and endpoint come from AWS_* variables, else the machine's role."""

    def __init__(self, address: str) -> None:
        bucket, prefix = _split(address, "s3://BUCKET/PREFIX")
        self.pinned = f"s3://{address.rstrip('/')}"
        endpoint = _plain_http_host()
        self.authenticated = endpoint is None or is_loopback(endpoint)
        # No retries here, because RetryPolicy continues where the stream stopped. One day is the limit for a whole
        # file. A stream that stalls is ended by `read_timeout`.
        self._store = _store(self.pinned, bucket, prefix.strip("/"), retries=0, timeout=timedelta(days=1))

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """See BundleSource."""
        try:
            result = obstore.get(self._store, name, options={"range": {"offset": offset}} if offset else {})
            for piece in result.stream(min_chunk_size=PIECE):
                yield bytes(piece)
        except (FileNotFoundError, BaseError) as error:
            raise _translate(error, self.pinned, name) from None


class S3Object:
    """One file of a bucket, readable from any offset. Temporary failures are retried."""

    def __init__(self, address: str) -> None:
        bucket, self._key = _split(address, "s3://BUCKET/KEY")
        if not self._key or self._key.endswith("/"):
            raise UsageError(f"s3://{address} names no file: give s3://BUCKET/KEY")
        self._address = f"s3://{address}"
        self._store = _store(self._address, bucket, "", retries=5, timeout=timedelta(minutes=5))

    def stamp(self) -> tuple[int, str]:
        """Return size and ETag. Raises UsageError if there is no such file, TransferError for other failures."""
        meta = self.request(lambda: obstore.head(self._store, self._key))
        return meta["size"], meta["e_tag"] or str(meta["last_modified"])

    def open(self) -> S3Content:
        """Open the file for reading."""
        return S3Content(self, self.request(lambda: obstore.open_reader(self._store, self._key, buffer_size=PIECE)))

    def request(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of `call`. Its errors are raised as UsageError (no such file) or TransferError."""
        try:
            return call()
        except FileNotFoundError:
            raise UsageError(f"{self._address} does not exist, or these credentials may not see it") from None
        except BaseError as error:
            raise _translate(error, self._address, "such file") from None


class S3Content(RawIOBase):
    """The content of an S3 object as a Python file object."""

    def __init__(self, source: S3Object, reader: Any) -> None:
        self._source, self._reader = source, reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = bytes(self._source.request(lambda: self._reader.read(len(buffer))))
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _split(address: str, form: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", address)
    if not match:
        raise UsageError(f"s3://{address} has no valid bucket name: give {form}")
    return match[1], match[2] or ""


def _plain_http_host() -> str | None:
    """Return the host of the endpoint if the AWS_* variables name one without TLS, else None."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""))
    return endpoint.hostname or "" if endpoint.scheme == "http" else None


def _store(address: str, bucket: str, prefix: str, retries: int, timeout: timedelta) -> S3Store:
    """Open a bucket. `timeout` is the time that one whole response may take."""
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": _plain_http_host() is not None,
                "connect_timeout": timedelta(seconds=10),
                "timeout": timeout,
                "read_timeout": timedelta(seconds=60),
            },
            retry_config={"max_retries": retries},
        )
    except BaseError as error:
        raise UsageError(f"{address} cannot be opened ({type(error).__name__}): check the AWS_* variables") from None


def _translate(error: Exception, address: str, name: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{address} has no {name}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return AccessDenied(f"{address} may not be read with these credentials: check the AWS_* variables")
    return TransferInterrupted(
        f"{address} cannot be reached, or failed ({type(error).__name__}): check that it is running"
    )
