"""Errors of transfers between a source and this machine.

EmbedshipError
└── TransferError            1   the source rejects a request, or answers something invalid
    ├── NotFound             1   it has no such file
    ├── AccessDenied         1   it needs other credentials, or hides that it has no such file
    └── TransferInterrupted  1   a lost connection or an overloaded server: retried before users see it

No message contains a URL's query, a header or a message of a library, because these may contain credentials.
"""

from __future__ import annotations

from embedship.errors import EmbedshipError


class TransferError(EmbedshipError):
    """The source rejects a request, or answers something invalid."""


class NotFound(TransferError):
    """The source has no such file."""


class AccessDenied(TransferError):
    """The source needs other credentials, or hides that it has no such file."""


class TransferInterrupted(TransferError):
    """A lost connection or an overloaded server. `retry_after` is how many seconds the server asks to wait."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
