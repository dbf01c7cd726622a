"""Manifests as exports make them, with and without what may be left unmeasured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.bundle import (
    BundleManifest,
    InvarianceReport,
    MachineInfo,
    ModelSource,
    ModelSpec,
    Objective,
    ParityReport,
    Precision,
    Provenance,
    Quantisation,
    RetrievalReport,
    RetrievalResult,
    Runtime,
    Similarity,
    Variant,
    VariantChoice,
    VectorCode,
    VectorCodes,
)
from embedship.codes import Int8Scale
from embedship.export.gates.parity import FLOORS

TEXTS = 213
ORT, OV = Runtime.ONNXRUNTIME, Runtime.OPENVINO
FP32, BF16, INT8 = Precision.FLOAT32, Precision.BFLOAT16, Precision.INT8
# name: runtime, weights, runs as, quantised, MB, mean cosine lost, worst cosine lost, tokens/s, seconds a text
MEASURED: dict[str, tuple[Any, ...]] = {
    "onnx": (ORT, FP32, FP32, Quantisation.NONE, 90.4, 3e-13, 9e-13, 4_512.3, 0.00312),
    "onnx-O3": (ORT, FP32, FP32, Quantisation.NONE, 90.3, 1.1e-7, 4.4e-7, 4_688.0, 0.00301),
    "onnx-int8": (ORT, INT8, INT8, Quantisation.STATIC, 23.1, 2.3e-3, 0.0092, 12_104.8, 0.00142),
    "openvino": (OV, FP32, BF16, Quantisation.NONE, 90.5, 1.6e-5, 5.1e-5, 12_990.1, 0.00131),
    "openvino-int8": (OV, INT8, INT8, Quantisation.STATIC, 23.4, 2.1e-3, 0.0139, 22_103.4, 0.00064),
}
KEPT = {"checkpoint": 1.0, "onnx": 1.0, "onnx-O3": 0.9999, "onnx-int8": 0.9949, "openvino": 0.9997}
CODES = ((VectorCode.FLOAT32, False, 4.0, 1.0), (VectorCode.FLOAT16, False, 2.0, 1.0), (VectorCode.INT8, False, 1.0,
    0.996),
         (VectorCode.UBINARY, False, 0.125, 0.89), (VectorCode.UBINARY, True, 0.125, 0.985))  # fmt: skip
DIMENSIONS = {768: 1.0, 512: 0.985, 256: 0.955, 128: 0.88, 64: 0.74}
Make = Callable[..., BundleManifest]


def variant(name: str) -> Variant:
    runtime, weights, precision, quantised, size, mean, worst, *_ = MEASURED[name]
    return Variant(
        name=name,
        runtime=runtime,
        path=f"{runtime}/{name}",
        weights=weights,
        quantisation=quantised,
        needs=(),
        precision=precision,
        size=int(size * 1e6),
        fused={"Attention": 6, "FastGelu": 6, "SkipLayerNormalization": 12} if name == "onnx-O3" else {},
        parity=ParityReport(
            texts=TEXTS,
            longest=256,
            minimum=1 - worst,
            mean=1 - mean,
            overlap=0.991,
            length=1.0,
            worst_text="'!!! ??? ... --- === \\\\ / {} <> `$(rm -rf)`'",
        ),
        invariance=InvarianceReport(
            texts=30, shuffled=0.99999, over_padded=0.999985, other_side=0.99998, worst_text="'...'"
        ),
    )


def rows() -> tuple[RetrievalResult, ...]:
    """Every variant at full dimension in float32, and every dimension and code of the chosen one."""
    plain = [(name, 768, VectorCode.FLOAT32, False, 3072, kept) for name, kept in KEPT.items()]
    sized = [
        ("openvino-int8", dimension, code, rescored, int(dimension * width), 0.996 * cut * kept)
        for dimension, cut in DIMENSIONS.items()
        for code, rescored, width, kept in CODES
    ]
    return tuple(
        RetrievalResult(
            variant=name,
            dimension=dimension,
            code=code,
            rescored=rescored,
            bytes_per_vector=size,
            metrics={"recall@10": round(0.684 * kept, 4), "ndcg@10": 0.52, "mrr@10": 0.5, "map@100": 0.46},
        )
        for name, dimension, code, rescored, size, kept in plain + sized
    )


def cosines(name: str) -> np.ndarray:
    """As many as there are texts, around the variant's mean."""
    mean = MEASURED[name][5]
    return 1 - mean * np.exp(np.random.default_rng(0).normal(-0.2, 0.6, TEXTS))


@pytest.fixture(scope="session")
def manifest() -> Make:
    """Make one with everything measured; keywords replace its fields."""

    def make(**changes: Any) -> BundleManifest:
        plain = BundleManifest(
            format=2,
            fingerprint="7d4f" * 16,
            created="2026-11-22T07:10:31+00:00",
            source=ModelSource(name="legal-matryoshka", weights_sha256="53aa" * 16, versions={"torch": "2.13.0+cpu"}),
            pipeline=ModelSpec(
                architecture="ModernBertModel",
                pooling="mean",
                dimension=768,
                dimensions=tuple(DIMENSIONS),
                max_tokens=512,
                lowercase=False,
                normalised=True,
                similarity=Similarity.COSINE,
                prompts={"query": "search_query: "},
                default_prompt=None,
                inputs=("input_ids", "attention_mask"),
                pad_id=0,
            ),
            tokenizer_sha256="be50" * 16,
            floors=FLOORS,
            variants=tuple(variant(name) for name in MEASURED),
            choice=VariantChoice(
                objective=Objective.THROUGHPUT,
                variant="openvino-int8",
                machine=MachineInfo(cpu="AMD EPYC", isa=("avx2", "avx512f", "avx512_vnni"), cores=2.0),
                tokens_per_second={name: row[7] for name, row in MEASURED.items()},
                latency_seconds={name: row[8] for name, row in MEASURED.items()},
            ),
            codes=VectorCodes(
                int8=(Int8Scale((0.001,) * 767 + (0.002,)),),
                clipped=0.0002,
                binary_threshold=0.0,
                rescore=4,
                rescored_recall=0.992,
                documents=700,
            ),
            quality=RetrievalReport(dataset="medquad", queries=1000, documents=10038, max_recall_drop=None,
                measured=rows()),
            provenance=Provenance(
                files={"model.safetensors": "53aa" * 16, "1_Pooling/config.json": "4be4" * 16},
                options={"--texts": "corpus.jsonl sha256:99ab", "--objective": "throughput"},
                seed=0,
            ),
            files={},
        )  # fmt: skip
        return msgspec.structs.replace(plain, **changes)

    return make


@pytest.fixture(scope="session")
def spreads() -> dict[str, np.ndarray]:
    """The cosine of every text, by variant."""
    return {name: cosines(name) for name in MEASURED}
