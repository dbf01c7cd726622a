"""Questions with known answers, in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv."""

from __future__ import annotations

import csv
import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship import jsonl
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
        judged = _judgements(folder / "qrels.tsv", {d.id for d in documents})
        queries = [q for q in jsonl.read(folder / "queries.jsonl", _Query) if judged.get(q.id)]
        if not queries:
            raise UsageError(f"{folder}: no query in queries.jsonl has a relevant document in qrels.tsv")
        rows = {document.id: row for row, document in enumerate(documents)}
        if len(rows) < len(documents):
            raise UsageError(f"{folder}/corpus.jsonl gives an _id to two documents: each needs its own")
        relevant = [np.array(sorted(rows[id] for id in judged[q.id]), dtype=np.int64) for q in queries]
        return cls(folder.resolve().name, texts, [q.text for q in queries], relevant)


def _judgements(path: Path, known: AbstractSet[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if rows and _is_judgement(rows[0]):
        raise UsageError(f"{path} has no header line: begin it with query-id, corpus-id and score, separated by tabs")
    for number, row in enumerate(rows[1:], 2):
        query, document, score = _judgement(row, f"{path}, line {number}")
        if document not in known:
            raise UsageError(f"{path}, line {number}: document {document!r} is not in corpus.jsonl")
        if score > 0:
            found.setdefault(query, set()).add(document)
    return found


def _is_judgement(row: list[str]) -> bool:
    try:
        return math.isfinite(float(row[2]))
    except (IndexError, ValueError):
        return False


def _judgement(row: list[str], where: str) -> tuple[str, str, float]:
    try:
        query, document, score = row
        return query, document, float(score)
    except ValueError:
        raise UsageError(f"{where}: expected query-id, corpus-id and score, separated by tabs, not {row!r}") from None
