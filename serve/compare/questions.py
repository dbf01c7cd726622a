"""The queries to compare with: distinct texts, and where known the documents that answer them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embedship.errors import UsageError
from embedship.files import jsonl


class _QuestionLine(msgspec.Struct, frozen=True):
    """Logs and probes have fields of their own beside these."""

    text: str
    relevant: tuple[str, ...] = ()
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """n distinct texts in the order of the file; `relevant` and `ids` have a set each, empty where nothing is known.

    A text that a log holds many times is one question: its copies fare alike, and would make an interval look narrower
    than it is.
    """

    texts: Sequence[str]
    relevant: Sequence[Set[str]]
    ids: Sequence[Set[str]]
    lines: int

    @classmethod
    def read(cls, path: Path) -> QuestionSet:
        """Read JSON Lines {"text"}, optionally "relevant" (ids of documents) and "id" or "_id". Raises UsageError."""
        relevant: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}
        lines = list(jsonl.read(path, _QuestionLine))
        for line in lines:
            relevant.setdefault(line.text, set()).update(line.relevant)
            ids.setdefault(line.text, set()).update(filter(None, (line.id, line.beir_id)))
        return cls(list(relevant), list(relevant.values()), list(ids.values()), len(lines))

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> list[int]:
        """The places of those whose answers are known."""
        return [place for place, wanted in enumerate(self.relevant) if wanted]

    def judged(self, judgements: dict[str, set[str]]) -> QuestionSet:
        """With the relevant documents that qrels give to their ids. Raises UsageError if they give none."""
        found = [
            {*wanted, *(document for id in ids for document in judgements.get(id, ()))}
            for wanted, ids in zip(self.relevant, self.ids, strict=True)
        ]
        if not any(found):
            raise UsageError("no query has an `id` (or `_id`) that --qrels judges: both must name queries alike")
        return QuestionSet(self.texts, found, self.ids, self.lines)
