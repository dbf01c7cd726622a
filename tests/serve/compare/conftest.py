"""Questions about Python's own documentation, and the documents that answer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from embedship import stdlib_docs


class Asked(NamedTuple):
    queries: Path  # JSON Lines {"_id", "text", "relevant"}
    corpus: Path
    plain: Path  # the queries, unlabelled, some of them twice
    qrels: Path
    count: int


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    entries = {entry.summary: entry for entry in stdlib_docs.entries(120)}
    found = list(entries.values())
    rows = [{"_id": f"q{n}", "text": e.summary, "relevant": [e.id]} for n, e in enumerate(found)]
    documents = [{"id": e.id, "text": e.body[:100]} for e in found]
    bare = [{"_id": row["_id"], "text": row["text"]} for row in rows]
    judged = [f"{row['_id']}\t{row['relevant'][0]}\t1" for row in rows]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    for name, lines in (("queries", rows), ("corpus", documents), ("plain", [*bare, *bare[:40]])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    paths = [folder / f"{name}.jsonl" for name in ("queries", "corpus", "plain")]
    return Asked(paths[0], paths[1], paths[2], folder / "qrels.tsv", len(found))
