"""Location of an index: a folder, or a Milvus collection on a server or in a file of Milvus Lite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from embedship.errors import UsageError

SCHEMES = {"milvus": "http", "milvus+tls": "https"}  # scheme of an address -> scheme for pymilvus
PORT = 19530
_FILE = ".db"  # pymilvus recognises a file of Milvus Lite by this ending
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_SHAPES = "milvus://HOST:PORT/COLLECTION, or milvus:PATH/FILE.db/COLLECTION for a file of Milvus Lite"


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a Milvus collection.
    >>> Address.parse("milvus://db.example:19530/faq").uri, Address.parse("milvus:///data/faq.db/faq").uri
    ('http://db.example:19530', '/data/faq.db')
    """

    uri: str  # in the format of pymilvus
    collection: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Raises UsageError that shows the format of an address."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port or PORT
        except ValueError:
            raise _invalid(text) from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(f"an address must not contain a user, password, query or fragment: write {_SHAPES}")
        base, _, collection = parts.path.rpartition("/")
        if not _COLLECTION.fullmatch(collection) or (base if host else not base.endswith(_FILE)):
            raise _invalid(text)
        if not host:
            return cls(base, collection)
        host = f"[{host}]" if ":" in host else host
        return cls(f"{SCHEMES[parts.scheme]}://{host}:{port}", collection)

    @property
    def local(self) -> bool:
        """Whether it is a file of Milvus Lite."""
        return self.uri.endswith(_FILE)

    def __str__(self) -> str:
        if self.local:
            return f"milvus:{'//' if self.uri.startswith('/') else ''}{self.uri}/{self.collection}"
        client_scheme, _, server = self.uri.partition("://")
        (scheme,) = (scheme_name for scheme_name, client_name in SCHEMES.items() if client_name == client_scheme)
        return f"{scheme}://{server}/{self.collection}"


def parse_location(text: str) -> Path | Address:
    """Return the location of an index as a folder path or a collection address. Raises UsageError."""
    return Address.parse(text) if text.partition(":")[0] in SCHEMES else Path(text)


def _invalid(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a valid address of a collection: write {_SHAPES}")
