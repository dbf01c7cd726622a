"""RetrievalDataset: questions with known answers, in BEIR's layout (corpus.jsonl, queries.jsonl, qrels.tsv)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.bundle import ModelSpec
from embedship.errors import UsageError
from embedship.files import jsonl, qrels
from embedship.tokens import Tokenizer


class _DatasetDocument(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str
    title: str | None = None


class _DatasetQuery(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    text: str


@dataclass(frozen=True, slots=True)
class RetrievalDataset:
    """Documents and queries. `relevant` has, per query, the rows of its relevant documents (at least one).

    Documents are sorted by id, so for equal scores the order by row is the order by id.
    """

    name: str
    documents: list[str]
    queries: list[str]
    relevant: list[NDArray[np.int64]]
    ids: Sequence[str] = ()  # document ids
    query_ids: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path, title: bool = False) -> RetrievalDataset:
        """Read a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv (with a header line).

        `title` puts "title " before each text, as BEIR does. Raises UsageError that names file and line.
        """
        documents = sorted(jsonl.read(folder / "corpus.jsonl", _DatasetDocument), key=lambda document: document.id)
        texts = [f"{d.title} {d.text}" if title and d.title else d.text for d in documents]
        judgements = qrels.read(folder / "qrels.tsv", {d.id for d in documents}, "corpus.jsonl")
        queries = [q for q in jsonl.read(folder / "queries.jsonl", _DatasetQuery) if judgements.get(q.id)]
        if not queries:
            raise UsageError(f"{folder}: no query in queries.jsonl has a relevant document in qrels.tsv")
        rows = {document.id: row for row, document in enumerate(documents)}
        if len(rows) < len(documents):
            raise UsageError(f"{folder}/corpus.jsonl gives an _id to two documents: each needs its own")
        relevant = [np.array(sorted(rows[id] for id in judgements[q.id]), dtype=np.int64) for q in queries]
        ids = ([document.id for document in documents], [query.id for query in queries])
        return cls(folder.resolve().name, texts, [q.text for q in queries], relevant, *ids)

    def drop_empty_texts(
        self, tokenizer: Tokenizer, pipeline: ModelSpec, report: Callable[[str], object]
    ) -> RetrievalDataset:
        """Return the dataset without texts that have no tokens and so no vector. `report` receives their ids.

        An empty text has no tokens if the tokenizer adds no special tokens and there is no prompt. Judgements of
        dropped documents are dropped as well, and then queries without a judgement. Raises UsageError if no query is
        left.
        """
        prompts = (pipeline.prompt(name) for name in (pipeline.document_prompt, pipeline.query_prompt))
        documents, queries = (
            np.array(tokenizer(texts, prompt).lengths, dtype=np.int64) > 0
            for texts, prompt in zip((self.documents, self.queries), prompts, strict=True)
        )
        if documents.all() and queries.all():
            return self
        rows = np.cumsum(documents) - 1
        relevant = [rows[each[documents[each]]] for each in self.relevant]
        kept_queries = [row for row in np.flatnonzero(queries).tolist() if len(relevant[row])]
        for kind, names, good in (("document", self.ids, documents), ("query", self.query_ids, queries)):
            if not good.all():
                report(f"{self.name}: {_without_tokens(kind, [names[row] for row in np.flatnonzero(~good).tolist()])}")
        if not kept_queries:
            raise UsageError(f"{self.name}: no query is left with tokens and with a relevant document that has tokens")
        return RetrievalDataset(
            self.name,
            [self.documents[row] for row in np.flatnonzero(documents).tolist()],
            [self.queries[row] for row in kept_queries],
            [relevant[row] for row in kept_queries],
            [self.ids[row] for row in np.flatnonzero(documents).tolist()],
            [self.query_ids[row] for row in kept_queries],
        )


def _without_tokens(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    plural = {"document": "documents", "query": "queries"}[kind]
    count = f"1 {kind} has" if len(names) == 1 else f"{len(names):,} {plural} have"
    return f"{count} no tokens, so no vector, and {'is' if len(names) == 1 else 'are'} left out ({shown})"
