"""Bundles over the wire: `embedship push` and `embedship pull`.

A Source gives the bytes of a named file from an offset on; one downloader takes them, whatever the source, and lets
nothing through that bundle.json does not list with this sha256.

    address.py      From an address to its source
    credentials.py  What `docker login` left behind
    download.py     One file from a source to the disk
    errors.py       What can go wrong between here and a source
    folder.py       A bundle's files below a URL
    oci.py          A bundle as an OCI artifact
    progress.py     How far a transfer is, on stderr
    pull.py         A bundle from a source into a folder, whole or not at all
    registry.py     The HTTP of an OCI registry, as far as files need it
    retry.py        Try again what may pass, a little later each time
    s3.py           Files of an S3 bucket, of Amazon's or of any that speaks S3
    web.py          HTTP with timeouts, whose failures are this folder's errors
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class BundleSource(Protocol):
    """A place that holds a bundle's files under their own names."""

    @property
    def pinned(self) -> str:
        """Its address, as exact as it is known: a tag is resolved once the manifest has been read."""

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """The bytes of a file from `offset` on, in pieces.

        Raises Missing if there is no such file, Interrupted for what may pass, TransferError for what will not. A
        stream may also just end early.
        """
