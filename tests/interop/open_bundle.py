"""Run by the other environment: open a bundle's graphs as sentence-transformers and Optimum do, and save their vectors.

open_bundle.py BUNDLE TEXTS.json OUT.npz GRAPH ... -- each GRAPH a path inside the bundle.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from sentence_transformers import SentenceTransformer

# OpenVINO takes bfloat16 unasked where the CPU has it; vectors are compared at float32.
EXACT = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}


def main(bundle: str, texts: str, out: str, *graphs: str) -> None:
    lines = json.loads(Path(texts).read_text())
    found = {}
    for graph in graphs:
        room, _, name = graph.partition("/")
        settings: dict[str, Any] = {"file_name": name}
        settings |= {"provider": "CPUExecutionProvider"} if room == "onnx" else EXACT
        model = SentenceTransformer(bundle, backend=room, device="cpu", local_files_only=True, model_kwargs=settings)
        found[graph] = model.encode(lines, batch_size=4)
        if room == "onnx":
            found[f"optimum:{graph}"] = _optimum(bundle, name, model.tokenizer, lines)
    np.savez(out, **found)


def _optimum(bundle: str, name: str, tokenizer: Any, lines: list[str]) -> Any:
    """Mean-pooled and normalised by hand: Optimum itself gives token vectors."""
    model = ORTModelForFeatureExtraction.from_pretrained(bundle, subfolder="onnx", file_name=name)
    inputs = tokenizer(lines, padding=True, truncation=True, return_tensors="pt")
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(pooled, dim=1).numpy()


main(*sys.argv[1:])
