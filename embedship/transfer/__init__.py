"""Bundles over the wire: `embedship push` and `embedship pull`.

A Source gives the bytes of a named file from an offset on; one downloader takes them, whatever the source, and lets
nothing through that bundle.json does not list with this sha256.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class BundleSource(Protocol):
    """A place that has a bundle's files under their own names."""

    @property
    def pinned(self) -> str:
        """Its address, as exact as it is known: a tag is resolved once the manifest has been read."""

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `offset`, in pieces.

        Raises NotFound if there is no such file, TransferInterrupted for failures that may pass, TransferError for
        others. The stream may also end early.
        """
