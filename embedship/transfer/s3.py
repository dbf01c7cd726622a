"""A bundle's files below a prefix of an S3 bucket, of Amazon's or of any that speaks S3."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from embedship.errors import MissingExtra, UsageError
from embedship.transfer.errors import Interrupted, Missing, Refused
from embedship.transfer.web import PIECE, is_loopback

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store
except ModuleNotFoundError:
    raise MissingExtra("obstore", "pull") from None


class S3Source:
    """`s3://bucket/prefix`. Credentials, region and endpoint are AWS_* variables, else the machine's own role."""

    def __init__(self, address: str) -> None:
        found = re.fullmatch(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", address)
        if not found:
            raise UsageError(f"s3://{address}: give s3://BUCKET/PREFIX")
        self.pinned = f"s3://{address.rstrip('/')}"
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""))
        plain = endpoint.scheme == "http"
        self.proves_itself = not plain or is_loopback(endpoint.hostname)
        try:
            self._store = S3Store(
                found[1],
                prefix=(found[2] or "").strip("/") or None,
                client_options={
                    "allow_http": plain,
                    "connect_timeout": timedelta(seconds=10),
                    "timeout": timedelta(days=1),  # of a whole file; a stalled stream is `read_timeout`'s
                    "read_timeout": timedelta(seconds=60),
                },
                retry_config={"max_retries": 0},  # Patience tries again, from where it stood
            )
        except BaseError as error:
            raise UsageError(
                f"{self.pinned} cannot be opened ({type(error).__name__}): look at the AWS_* variables"
            ) from None

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        try:
            found = obstore.get(self._store, name, options={"range": {"offset": offset}} if offset else {})
            for piece in found.stream(min_chunk_size=PIECE):
                yield bytes(piece)
        except FileNotFoundError:
            raise Missing(f"{self.pinned} has no {name}") from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise Refused(
                f"{self.pinned} may not be read with these credentials: look at the AWS_* variables"
            ) from None
        except BaseError as error:
            raise Interrupted(
                f"{self.pinned} cannot be reached, or failed ({type(error).__name__}): is it up?"
            ) from None
