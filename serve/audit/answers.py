"""The vectors that the server returned: of texts alone, in batches, in concurrent requests, with prompts, as base64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from embedship.codes import Vectors


class BatchTest(StrEnum):
    """How texts were sent together."""

    TOGETHER = "together"
    SHUFFLED = "shuffled"
    MANY = "64 in one request"
    SAME_LENGTH = "3 of one length"
    CONCURRENT = "64 requests at once"


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """The answer for one text: its vector, (dim,) float32, or the reason why there is none."""

    text: str
    vector: Vectors | None = None
    error: str = ""
    rejected: bool = False  # status 4xx


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answers for texts that were sent together. `tokens`: the token count of each text, if all have the same."""

    test: BatchTest
    answers: tuple[TextAnswer, ...]
    in_order: bool = True  # the entries of the response are numbered 0, 1, 2, ...
    tokens: int | None = None


@dataclass(slots=True)
class AuditAnswers:
    """All answers of one audit. `largest`: the size in texts to which requests were reduced, if one was too large."""

    alone: dict[str, TextAnswer] = field(default_factory=dict)
    batches: list[BatchAnswer] = field(default_factory=list)
    prompted: dict[str, list[TextAnswer]] = field(default_factory=dict)
    packed: list[TextAnswer] = field(default_factory=list)
    packed_as_numbers: bool = False  # base64 was requested, but the server returned numbers
    largest: int | None = None

    def vectors(self, texts: Iterable[str]) -> tuple[list[str], Vectors]:
        """Return the texts that have a vector from a request of their own, and these vectors, (n, dim)."""
        found = [(text, self.alone[text].vector) for text in texts if text in self.alone]
        answered = [(text, vector) for text, vector in found if vector is not None]
        rows = [vector for _, vector in answered]
        return [text for text, _ in answered], np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)
