"""Queries of a comparison: distinct texts, and their relevant documents if they are labelled."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embedship.errors import UsageError
from embedship.files import jsonl


class _QuestionLine(msgspec.Struct, frozen=True):
    """One line of the file. Other fields are ignored, so that query logs and probe files can be used."""

    text: str
    relevant: tuple[str, ...] = ()
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """n distinct texts in file order. `relevant` and `ids` contain one set per text, empty if nothing is known.

    A text that occurs several times counts once: its copies give equal results, and would make intervals look narrower
    than they are.
    """

    texts: Sequence[str]
    relevant: Sequence[Set[str]]
    ids: Sequence[Set[str]]
    lines: int

    @classmethod
    def read(cls, path: Path) -> QuestionSet:
        """Read JSON Lines with {"text"} and optionally "relevant" (document ids), "id" or "_id". Raises UsageError."""
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
        """Positions of the queries that have relevant documents."""
        return [i for i, documents in enumerate(self.relevant) if documents]

    def with_judgements(self, judgements: dict[str, set[str]]) -> QuestionSet:
        """Add the relevant documents of {query id: document ids}. Raises UsageError if no query gets any."""
        relevant = [
            {*documents, *(document for id in ids for document in judgements.get(id, ()))}
            for documents, ids in zip(self.relevant, self.ids, strict=True)
        ]
        if not any(relevant):
            raise UsageError("no query has an `id` (or `_id`) that occurs in --qrels: both files must use the same ids")
        return QuestionSet(self.texts, relevant, self.ids, self.lines)
