"""Quality and cost of re-ranking: nDCG@10 and latency of searches over MedQuAD's 10,038 answers, with and without it.

The index and the re-ranker use title and text. cross_training.py trains the cross-encoder on 1,500 questions, which
exclude the 250 test questions; the export applies its gates. One server has index and re-ranker. Each question is
searched without and with re-ranking, in alternation. Then pairs per second are compared with sentence-transformers'
CrossEncoder (torch) with the same weights, in alternating rounds. Generated files are kept in .bench. `--quick` is a
smoke test with small sizes.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bundled
import cross_training
import msgspec
import numpy as np
import record
import served
from cross_training import Lesson
from loadclient import Address
from scipy import stats

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.monitor.recall.score import score
from embedship.serve.compare.rankings import paired_difference
from embedship.serve.documents.store import Document
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.indexing.embedding import text_of
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS
from embedship.serve.service.collection import Collection

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "medquad"
WORK = ROOT / ".bench" / "rerank"
NEGATIVES = 4
AMONG = 30  # MiniLM hits from which negatives are drawn
ROUNDS = 5
PAIRS = 256  # pairs per round of the speed measurement


class Size(NamedTuple):
    lessons: int
    questions: int
    tops: tuple[int, ...]


FULL, QUICK = Size(1_500, 250, (10, 50)), Size(32, 10, (10,))


class Data(NamedTuple):
    documents: dict[str, str]  # title and text
    asked: dict[str, str]
    taught: dict[str, str]
    relevant: dict[str, set[str]]


def main() -> None:
    arguments = _arguments()
    size = QUICK if arguments.quick else FULL
    WORK.mkdir(parents=True, exist_ok=True)
    data = _data(arguments.data)
    bundle = Bundle.open(arguments.bundle or bundled.made(ROOT / ".bench"))
    index = _index(bundle, arguments.data / "corpus.jsonl")
    made = _reranker(bundle, index, data, size)
    log = WORK / "serve.log"
    with served.embedship(bundle.folder, log, "--index", str(index), "--reranker", str(made.bundle)) as server:
        searches = _searches(server.address, data, size)
    result = {
        "benchmark": "rerank",
        "quick": arguments.quick,
        "corpus": {"documents": len(data.documents), "questions": size.questions},
        "cross_encoder": made.training,
        "searches": searches,
        "pairs": _pairs(made, data, arguments.quick),
    }
    record.keep("rerank", record.circumstances() | result)


class Made(NamedTuple):
    checkpoint: Path
    bundle: Path
    training: dict[str, Any]


def _reranker(bundle: Bundle, index: Path, data: Data, size: Size) -> Made:
    folder = WORK / f"cross-{size.lessons}"
    made = Made(folder / "checkpoint", folder / "bundle", {})
    notes = folder / "training.json"
    if not notes.exists():
        shutil.rmtree(folder, ignore_errors=True)
        lessons = list(_lessons(bundle, index, data, size.lessons))
        base = Path(bundled.get_model_path())
        training = cross_training.train(base, lessons, made.checkpoint, lambda line: print(line, file=sys.stderr))
        pairs = folder / "pairs.jsonl"
        lines = [json.dumps({"query": each.question, "text": text}) for each in lessons[:100] for text in each.passages]
        pairs.write_text("\n".join(lines))
        command = [sys.executable, "-P", "-m", "embedship", "export", str(made.checkpoint), "--task", "rerank"]
        command += ["--variants", "onnx,openvino"]  # the gate rejected int8: worst value 0.78, required 0.8
        subprocess.run([*command, "--texts", str(pairs), "--out", str(made.bundle)], check=True)
        notes.write_text(json.dumps(training))
    return made._replace(training=json.loads(notes.read_text()))


def _lessons(bundle: Bundle, index: Path, data: Data, count: int) -> Iterator[Lesson]:
    drawn = np.random.default_rng(0)
    ids = sorted(data.taught)
    chosen = [ids[place] for place in drawn.permutation(len(ids))[:count]]
    with Encoder.open(bundle) as encoder:
        vectors = encoder.encode([data.taught[each] for each in chosen])
        shelf = Collection.open(index, bundle, encoder.tokenizer.prompt, vectors[:1])
        for each, vector in zip(chosen, vectors, strict=True):
            (hits,) = shelf.backend.find(vector[None], AMONG, DEFAULT_SEARCH_PARAMS).hits
            wrong = [hit.document.id for hit in hits if hit.document.id not in data.relevant[each]]
            if len(wrong) >= NEGATIVES:
                right = min(data.relevant[each])
                named = [right, *drawn.choice(wrong, NEGATIVES, replace=False)]
                yield Lesson(data.taught[each], [data.documents[name] for name in named])
        shelf.close()


def _searches(address: Address, data: Data, size: Size) -> dict[str, Any]:
    """Return results by the number of re-ranked hits (0: none). Each question uses all numbers in turn."""
    client = http.client.HTTPConnection(*address, timeout=60)
    ways = (0, *size.tops)
    seconds: dict[int, list[float]] = {way: [] for way in ways}
    quality: dict[int, list[Any]] = {way: [] for way in ways}
    for each in sorted(data.asked)[: size.questions]:
        for way in ways:
            body = {"query": data.asked[each], "k": 10} | ({"rerank": {"top": way}} if way else {})
            began = time.perf_counter()
            hits = _asked(client, "/search", body)["results"][0]["hits"]
            seconds[way].append(time.perf_counter() - began)
            quality[way].append(score([hit["id"] for hit in hits], data.relevant[each]))
    plain = np.array([each.ndcg for each in quality[0]])
    return {str(way): _said(seconds[way], quality[way], plain) for way in ways}


def _said(seconds: list[float], quality: list[Any], plain: np.ndarray) -> dict[str, Any]:
    ndcg = np.array([each.ndcg for each in quality])
    return {
        "ndcg@10": float(ndcg.mean()),
        "recall@10": float(np.mean([each.found / each.expected for each in quality])),
        "ndcg_gain": msgspec.to_builtins(paired_difference(plain, ndcg)),
        "seconds": {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)},
    }


def _pairs(made: Made, data: Data, quick: bool) -> dict[str, Any]:
    """Return pairs per second of our encoder and sentence-transformers', in this process, in alternating rounds."""
    from sentence_transformers import CrossEncoder

    from embedship.bundle import Task

    drawn = np.random.default_rng(1)
    count = 32 if quick else PAIRS
    questions, documents = sorted(data.asked.values()), sorted(data.documents.values())
    pairs = [(questions[a], documents[b]) for a, b in drawn.integers(0, [[len(questions), len(documents)]], (count, 2))]
    torch = CrossEncoder(str(made.checkpoint), max_length=cross_training.MOST_TOKENS, device="cpu")
    with Encoder.open(made.bundle, task=Task.RERANK) as encoder:
        ours, theirs = encoder.encode(pairs)[:, 0], np.asarray(torch.predict(pairs, show_progress_bar=False))
        rates: dict[str, list[float]] = {"embedship": [], "sentence-transformers": []}
        for _ in range(1 if quick else ROUNDS):
            began = time.perf_counter()
            encoder.encode(pairs)
            between = time.perf_counter()
            torch.predict(pairs, show_progress_bar=False)
            rates["embedship"].append(count / (between - began))
            rates["sentence-transformers"].append(count / (time.perf_counter() - between))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    return {
        **{name: record.spread(values) for name, values in rates.items()},
        "ratio": record.spread(ratios),
        "variant": variant_choice.variant(Bundle.open(made.bundle)).name,
        "rank_correlation": float(stats.spearmanr(ours, theirs).statistic),
    }


def _asked(client: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> Any:
    client.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = client.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {said[:500]!r}")
    return json.loads(said)


def _index(bundle: Bundle, corpus: Path) -> Path:
    out = WORK / f"index-{bundle.fingerprint[:12]}"
    if not out.exists():
        with Encoder.open(bundle) as encoder:
            build(
                encoder,
                variant_choice.variant(bundle).name,
                corpus,
                out,
                IndexOptions(with_title=True),
                lambda *_: None,
            )
    return out


def _data(folder: Path) -> Data:
    rows = _lines(folder / "corpus.jsonl")
    documents = {row["_id"]: text_of(Document(row["_id"], row["text"], row["title"]), True) for row in rows}
    asked = {row["_id"]: row["text"] for row in _lines(folder / "queries.jsonl")}
    known = set(asked.values())
    every = {row["_id"]: row["text"] for row in _lines(folder / "queries_all.jsonl")}
    taught = {id: text for id, text in every.items() if id not in asked and text not in known}
    relevant: dict[str, set[str]] = {}
    for name in ("qrels.tsv", "qrels_all.tsv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
    return Data(documents, asked, {id: text for id, text in taught.items() if id in relevant}, relevant)


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle of all-MiniLM-L6-v2 (default: exported by this run)")
    parser.add_argument("--data", type=Path, default=DATA, help="MedQuAD: corpus, queries and qrels")
    parser.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    return parser.parse_args()


if __name__ == "__main__":
    main()
