"""Bundles over the wire: `embedship push` and `embedship pull`.

A Source gives the bytes of a named file from an offset on; one downloader takes them, whatever the source, and lets
nothing through that bundle.json does not list with this sha256.
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
