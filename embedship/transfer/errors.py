"""What can go wrong between here and a source.

EmbedshipError
└── TransferError       1   the source refuses, or answers what it must not
    ├── Missing         1   it holds no such file
    ├── Refused         1   it wants other credentials, or does not say that it holds no such file
    └── Interrupted     1   a connection lost, a server that is overloaded: tried again before anybody sees it

No message quotes a URL's query, a header or a library's own words: they may hold credentials.
"""

from __future__ import annotations

from embedship.errors import EmbedshipError


class TransferError(EmbedshipError):
    pass


class NotFound(TransferError):
    pass


class AccessDenied(TransferError):
    pass


class TransferInterrupted(TransferError):
    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds that the server asks for
