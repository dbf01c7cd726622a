"""What all connections of a listener share: their limits, who refuses, and how much their clients have not read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from embedship.serve.errors import RequestError
from embedship.serve.http import Reply

if TYPE_CHECKING:
    from embedship.serve.connection import Connection


@dataclass(frozen=True, slots=True)
class Limits:
    """Of every connection, and of all together; the settings of the same names say what each is for."""

    connections: int = 1_024
    head_seconds: float = 15.0
    max_head_bytes: int = 32_768
    max_head_fields: int = 100
    body_seconds: float = 30.0
    max_body_bytes: int = 16 * 1024 * 1024
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0
    max_unread_bytes: int = 256 * 1024 * 1024


class Cut(StrEnum):
    """Why a connection was cut without an answer: label of embedship_connections_cut_total."""

    HEAD = "head"
    BODY = "body"
    UNREAD = "unread"


class Gate:
    """What the connections of one listener share. `refuse` gives the answer to a path that the app is not asked for."""

    def __init__(
        self, limits: Limits, refuse: Callable[[RequestError, str], Reply], cut: Callable[[Cut], object]
    ) -> None:
        self.limits = limits
        self.refuse = refuse
        self.cut = cut
        self.lingering = 0  # connections that were refused, and whose clients have not left yet
        self._unread: dict[Connection, None] = {}  # in the order in which they stopped to read

    def stuck(self, connection: Connection) -> None:
        """Its client does not read as fast as it is answered. Who has not read for longest makes room for others."""
        self._unread[connection] = None
        while len(self._unread) > 1 and sum(each.unread for each in self._unread) > self.limits.max_unread_bytes:
            next(iter(self._unread)).cut(Cut.UNREAD)

    def flows(self, connection: Connection) -> None:
        self._unread.pop(connection, None)
