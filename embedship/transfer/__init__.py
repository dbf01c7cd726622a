"""Transfer of bundles: `embedship push` and `embedship pull`.

A BundleSource yields the bytes of a named file from an offset. One downloader reads all kinds of sources, and accepts
only files that bundle.json lists, with the right sha256.

address.py      Opens the source of an address
credentials.py  Registry credentials from `docker login`
download.py     Downloads and verifies one file
errors.py       Errors of transfers
folder.py       Web folders and model hubs
oci.py          Bundles as OCI artifacts
progress.py     Progress on stderr
pull.py         Fetches a bundle into a folder
registry.py     HTTP client of an OCI registry
retry.py        Retries with growing waits
s3.py           S3 buckets
web.py          HTTP client with timeouts
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class BundleSource(Protocol):
    """A place that has a bundle's files under their own names."""

    @property
    def pinned(self) -> str:
        """The address of the source. A tag is replaced by its digest or commit after the first read."""

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `offset`, in pieces.

        Raises NotFound if there is no such file, TransferInterrupted for temporary failures, TransferError for other
        failures. The stream may also end early.
        """
