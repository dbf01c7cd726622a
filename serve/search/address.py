"""Where a collection lies: on a server, or in a file of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from embedship.errors import UsageError

SCHEMES = {"milvus": "http", "milvus+tls": "https"}  # and what pymilvus calls them
PORT = 19530
_FILE = ".db"  # pymilvus knows a file of Milvus Lite by it
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_SHAPES = "milvus://HOST:PORT/COLLECTION, or milvus:PATH/FILE.db/COLLECTION for a file of Milvus Lite"


@dataclass(frozen=True, slots=True)
class Address:
    """
    >>> Address.parse("milvus://db.example:19530/faq").uri, Address.parse("milvus:///data/faq.db/faq").uri
    ('http://db.example:19530', '/data/faq.db')
    """

    uri: str  # as pymilvus takes it
    collection: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError that says how an address is written."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port or PORT
        except ValueError:
            raise _unlike(text) from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(f"an address names no user and no password: it is {_SHAPES}")
        base, _, collection = parts.path.rpartition("/")
        if not _COLLECTION.fullmatch(collection) or (base if host else not base.endswith(_FILE)):
            raise _unlike(text)
        if not host:
            return cls(base, collection)
        named = f"[{host}]" if ":" in host else host
        return cls(f"{SCHEMES[parts.scheme]}://{named}:{port}", collection)

    @property
    def local(self) -> bool:
        """Whether it is a file of Milvus Lite."""
        return self.uri.endswith(_FILE)

    def __str__(self) -> str:
        if self.local:
            return f"milvus:{'//' if self.uri.startswith('/') else ''}{self.uri}/{self.collection}"
        called, _, server = self.uri.partition("://")
        (scheme,) = (ours for ours, theirs in SCHEMES.items() if theirs == called)
        return f"{scheme}://{server}/{self.collection}"


def parse_location(text: str) -> Path | Address:
    """Where an index lies, as the user wrote it: a folder, or a collection. Raises UsageError."""
    return Address.parse(text) if text.partition(":")[0] in SCHEMES else Path(text)


def _unlike(text: str) -> UsageError:
    return UsageError(f"{text!r} is no address of a collection: write {_SHAPES}")
