"""nDCG@10 of dense, keyword and hybrid search: MedQuAD's 1,000 questions over its 10,038 answers, text without title.

Nothing is fitted here (k 60, depth 100, equal say), so every question is held out; the two halves show how far chance
goes. The index is built once, by the command users run, and kept in .bench. `--quick` takes 100 questions and the
answers to them.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import record

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.monitor.recall.score import score
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.search.backend import SearchParams
from embedship.serve.search.fusion import SearchMode
from embedship.serve.service.collection import Collection

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "medquad"
WORK = ROOT / ".bench"
QUICK = 100


def main() -> None:
    arguments = _arguments()
    data: Path = arguments.data
    relevant = _relevant(data / "qrels.tsv")
    questions = [row for row in _lines(data / "queries.jsonl") if row["_id"] in relevant]
    if arguments.quick:
        questions = questions[:QUICK]
    bundle = Bundle.open(arguments.bundle)
    WORK.mkdir(exist_ok=True)
    with Encoder.open(bundle) as encoder:
        folder = _index(encoder, data / "corpus.jsonl", questions, relevant, arguments.quick)
        vectors = encoder.encode([row["text"] for row in questions], prompt_name=bundle.manifest.pipeline.query_prompt)
        shelf = Collection.open(folder, bundle, encoder.tokenizer.prompt, vectors[:1])
        measured = {str(mode): _measure(shelf, mode, questions, vectors, relevant) for mode in SearchMode}
        shelf.close()
    record.keep("hybrid", record.circumstances() | {"benchmark": "hybrid", "quick": arguments.quick, "modes": measured})


def _measure(
    shelf: Collection, mode: SearchMode, questions: list[Any], vectors: Vectors, relevant: dict[str, set[str]]
) -> dict[str, float]:
    scores, began = [], time.perf_counter()
    for row, vector in zip(questions, vectors, strict=True):
        (hits,) = shelf.search_sync(vector[None], 10, SearchParams(mode, [row["text"]])).hits
        scores.append(score([hit.document.id for hit in hits], relevant[row["_id"]]).ndcg)
    return {
        "questions": len(scores),
        "ndcg@10": float(np.mean(scores)),
        "even_half": float(np.mean(scores[::2])),
        "odd_half": float(np.mean(scores[1::2])),
        "seconds_per_query": (time.perf_counter() - began) / len(scores),  # without encoding the question
    }


def _index(encoder: Encoder, corpus: Path, questions: list[Any], relevant: dict[str, set[str]], quick: bool) -> Path:
    lines = corpus
    if quick:
        wanted = {id for row in questions for id in relevant[row["_id"]]}
        lines = WORK / "medquad-quick.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in _lines(corpus) if row["_id"] in wanted))
    out = WORK / f"hybrid-{'quick' if quick else 'full'}-{encoder.bundle.fingerprint[:12]}"
    if not out.exists():
        build(encoder, variant_choice.variant(encoder.bundle).name, lines, out, IndexOptions(), lambda *_: None)
    return out


def _relevant(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["query-id"], set()).add(row["corpus-id"])
    return found


def _lines(path: Path) -> Iterable[Any]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder with corpus.jsonl, queries.jsonl, qrels.tsv.")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
