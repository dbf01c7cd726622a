"""What is tried next when a batch failed or its device died: bounded, until only the guilty text fails. Pure.

A failed batch is halved until single texts fail. A batch whose device died is tried once more as it is, alone on a
device, elsewhere if there is one; if that one dies, too, its texts are tried one by one, alone on a device each, for
here halving would cost a restart a step. A text that kills a device alone, after it was among those that killed two,
has failed. So one guilty text among n costs 3 devices, or 2 log2(n) batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from embedship.serve.batching.priority_queue import Claim, Work

DEATHS = 2


@dataclass(frozen=True, slots=True)
class Piece(Generic[Claim]):
    """Texts that are computed together, and how many devices have died with them."""

    works: Sequence[Work[Claim]]
    deaths: int = 0
    errand: str | None = None  # the one device it is for: tried nowhere else, and never again

    @property
    def suspect(self) -> bool:
        """It must be alone on its device, so that a death can be blamed on it and hurts nobody else."""
        return self.deaths > 0

    @property
    def present(self) -> Piece[Claim]:
        """Without the texts of requests that nobody waits for any more, one of their texts having failed, say."""
        return Piece([work for work in self.works if not work.owner.gone], self.deaths, self.errand)


def after_failure(piece: Piece[Claim]) -> tuple[Piece[Claim], ...]:
    """What to try instead of a batch that failed; nothing: its one text is at fault."""
    works, middle = piece.works, len(piece.works) // 2
    if not middle or piece.errand:
        return ()
    return Piece(works[:middle], piece.deaths), Piece(works[middle:], piece.deaths)


def after_death(piece: Piece[Claim]) -> tuple[Piece[Claim], ...]:
    """What to try instead of a batch that a device died with; nothing: its one text is at fault."""
    if piece.errand:
        return ()
    if piece.deaths + 1 < DEATHS:
        return (Piece(piece.works, piece.deaths + 1),)
    if len(piece.works) == 1:
        return ()
    return tuple(Piece([work], piece.deaths) for work in piece.works)
