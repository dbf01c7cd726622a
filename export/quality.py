"""Retrieval metrics on the user's own questions: did the export cost anything that matters?

The definitions are those of sentence-transformers' InformationRetrievalEvaluator: relevance is yes or no, questions
without a relevant document are left out, ties rank by document id.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import log2
from pathlib import Path

import msgspec
import numpy as np

from embedship import jsonl
from embedship.codes import Vectors, normalise
from embedship.errors import UsageError

KS = (1, 3, 5, 10)
DEPTH = 100
_ROWS = 256

Encode = Callable[[Sequence[str]], Vectors]


class _Document(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str
    title: str | None = None


class _Query(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """`relevant` holds, for each query in order, the ids of its relevant documents; every query has at least one."""

    name: str
    document_ids: list[str]
    documents: list[str]
    queries: list[str]
    relevant: list[frozenset[str]]

    @classmethod
    def read(cls, folder: Path, title: bool = False) -> Dataset:
        """Read a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv (with a header line).

        `title` puts "title " before each text, as BEIR does. Raises UsageError naming file and line.
        """
        documents = list(jsonl.read(folder / "corpus.jsonl", _Document))
        texts = [f"{d.title} {d.text}" if title and d.title else d.text for d in documents]
        judged = _judgements(folder / "qrels.tsv", {d.id for d in documents})
        queries = [q for q in jsonl.read(folder / "queries.jsonl", _Query) if judged.get(q.id)]
        if not queries:
            raise UsageError(f"{folder}: no query in queries.jsonl has a relevant document in qrels.tsv")
        relevant = [frozenset(judged[q.id]) for q in queries]
        return cls(folder.resolve().name, [d.id for d in documents], texts, [q.text for q in queries], relevant)


def _judgements(path: Path, known: AbstractSet[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    for number, row in enumerate(rows[1:], 2):
        query, document, score = _judgement(row, f"{path}, line {number}")
        if document not in known:
            raise UsageError(f"{path}, line {number}: document {document!r} is not in corpus.jsonl")
        if score > 0:
            found.setdefault(query, set()).add(document)
    return found


def _judgement(row: list[str], where: str) -> tuple[str, str, float]:
    try:
        query, document, score = row
        return query, document, float(score)
    except ValueError:
        raise UsageError(f"{where}: expected query-id, corpus-id and score, separated by tabs, not {row!r}") from None


def evaluate(data: Dataset, encode_documents: Encode, encode_queries: Encode, dot: bool = False) -> dict[str, float]:
    """Search exactly and return the mean of every metric over the queries.

    Similarity is the cosine, or the inner product where `dot` is set.
    """
    documents, queries = encode_documents(data.documents), encode_queries(data.queries)
    if not dot:
        documents, queries = normalise(documents), normalise(queries)
    ranked = search(documents, queries, data.document_ids)
    rows = [metrics(ids, relevant) for ids, relevant in zip(ranked, data.relevant, strict=True)]
    return {name: round(float(np.mean([row[name] for row in rows])), 6) for name in rows[0]}


def search(documents: Vectors, queries: Vectors, ids: Sequence[str], k: int = DEPTH) -> list[list[str]]:
    """The ids of the k documents with the largest inner product, best first; ties by id."""
    k, names, ranked = min(k, len(documents)), np.asarray(ids), []
    for start in range(0, len(queries), _ROWS):
        scores = queries[start : start + _ROWS] @ documents.T
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        for row, places in zip(scores, nearest, strict=True):
            order = np.lexsort((names[places], -row[places]))
            ranked.append([ids[place] for place in places[order]])
    return ranked


def metrics(ranked: Sequence[str], relevant: AbstractSet[str]) -> dict[str, float]:
    """accuracy@k (a hit at all), precision@k, recall@k, ndcg@10, mrr@10, map@100 of one query's ranked ids.

    >>> metrics(["b", "a"], {"a"})["mrr@10"]
    0.5
    """
    hits = [document in relevant for document in ranked]
    found: dict[str, float] = {}
    for k in KS:
        found[f"accuracy@{k}"] = float(any(hits[:k]))
    for k in KS:
        found[f"precision@{k}"] = sum(hits[:k]) / k
    for k in KS:
        found[f"recall@{k}"] = sum(hits[:k]) / len(relevant)
    return found | {
        "ndcg@10": _dcg(hits[:10]) / _dcg([True] * min(10, len(relevant))),
        "mrr@10": next((1 / rank for rank, hit in enumerate(hits[:10], 1) if hit), 0.0),
        "map@100": _average_precision(hits[:DEPTH], min(DEPTH, len(relevant))),
    }


def _dcg(hits: Sequence[bool]) -> float:
    """Discounted cumulative gain (Järvelin and Kekäläinen 2002)."""
    return sum(hit / log2(rank + 1) for rank, hit in enumerate(hits, 1))


def _average_precision(hits: Sequence[bool], possible: int) -> float:
    return sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit) / possible
