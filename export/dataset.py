"""Questions with known answers, in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship import jsonl, qrels
from embedship.errors import UsageError


class _Document(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str
    title: str | None = None


class _Query(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """`relevant` holds, for each query in order, the rows of its relevant documents; every query has at least one.

    The documents are in the order of their ids, so that a tie goes to the lower row as it does to the lower id.
    """

    name: str
    documents: list[str]
    queries: list[str]
    relevant: list[NDArray[np.int64]]

    @classmethod
    def read(cls, folder: Path, title: bool = False) -> Dataset:
        """Read a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv (with a header line).

        `title` puts "title " before each text, as BEIR does. Raises UsageError naming file and line.
        """
        documents = sorted(jsonl.read(folder / "corpus.jsonl", _Document), key=lambda document: document.id)
        texts = [f"{d.title} {d.text}" if title and d.title else d.text for d in documents]
        judged = qrels.read(folder / "qrels.tsv", {d.id for d in documents}, "corpus.jsonl")
        queries = [q for q in jsonl.read(folder / "queries.jsonl", _Query) if judged.get(q.id)]
        if not queries:
            raise UsageError(f"{folder}: no query in queries.jsonl has a relevant document in qrels.tsv")
        rows = {document.id: row for row, document in enumerate(documents)}
        if len(rows) < len(documents):
            raise UsageError(f"{folder}/corpus.jsonl gives an _id to two documents: each needs its own")
        relevant = [np.array(sorted(rows[id] for id in judged[q.id]), dtype=np.int64) for q in queries]
        return cls(folder.resolve().name, texts, [q.text for q in queries], relevant)
