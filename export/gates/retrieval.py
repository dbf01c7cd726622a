"""Retrieval gate: measure the recall of each variant and choose the best one within the allowed loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from embedship.bundle import ExportStage, RetrievalReport, RetrievalResult, VectorCodes
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.gates import retrieval_metrics, vector_codes
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.gates.retrieval_metrics import PLAIN, STORAGES, Encode, EncodedDataset
from embedship.export.steps import StepTimer
from embedship.export.variant_failures import VariantFailures, failing


class VariantDecision(NamedTuple):
    """The chosen variant, the vector codes with their measured rescoring multiplier, and the measurements."""

    chosen: str
    codes: VectorCodes
    quality: RetrievalReport | None


def on_texts(encoder: Encoder, codes: VectorCodes, documents: list[str], queries: list[str]) -> VariantDecision:
    """Measure the rescoring multiplier by searching texts among texts, when there is no labelled dataset."""
    sample = RetrievalDataset("texts", documents, queries, [])
    encoded = EncodedDataset.make(
        encoder.variant.name, sample, *retrieval_metrics.encode_functions(encoder), encoder.bundle.manifest.pipeline
    )
    return VariantDecision(encoder.variant.name, vector_codes.rescoring(codes, encoded), None)


def on_questions(
    data: RetrievalDataset,
    checkpoint: EmbedderCheckpoint,
    encoders: Mapping[str, Encoder],
    ranked: Sequence[str],
    budget: float | None,
    codes: VectorCodes,
    steps: StepTimer,
    failures: VariantFailures,
) -> VariantDecision:
    """Measure every variant at full dimension in float32, and the chosen one in every dimension and code.

    `ranked` names the candidates, best first. The first one whose recall@10 is at most `budget` below the checkpoint's
    is chosen. The corpus is encoded once per variant, and one variant's vectors are in memory at a time. An optional
    variant that fails is recorded in `failures` and not chosen.

    Raises GateError if every candidate loses more.
    """
    pipeline = checkpoint.pipeline
    with steps.step("retrieval of the checkpoint"):
        encoded = EncodedDataset.make("checkpoint", data, *_encode_functions(checkpoint), pipeline)
        rows = [retrieval_metrics.measure(data, encoded, PLAIN)]
    chosen = None
    for name in dict.fromkeys([*ranked, *encoders]):
        step = steps.step(f"retrieval of {name}")
        with failures.optional(name), failing(name, ExportStage.RETRIEVAL), step:
            encoded = EncodedDataset.make(name, data, *retrieval_metrics.encode_functions(encoders[name]), pipeline)
            row = retrieval_metrics.measure(data, encoded, PLAIN)
            rows.append(row)
            if chosen is None and name in ranked and (budget is None or retrieval_metrics.drop(rows[0], row) <= budget):
                chosen, codes = name, vector_codes.rescoring(codes, encoded)
                rows += [
                    r for r in retrieval_metrics.grid(data, encoded, pipeline.dimensions, STORAGES, codes) if r != row
                ]
    if chosen is None:
        raise GateError(_over_budget(data.name, budget, rows))
    report = RetrievalReport(
        dataset=data.name,
        queries=len(data.queries),
        documents=len(data.documents),
        max_recall_drop=budget,
        measured=tuple(rows),
    )
    return VariantDecision(chosen, codes, report)


def _encode_functions(checkpoint: EmbedderCheckpoint) -> tuple[Encode, Encode]:
    pipeline = checkpoint.pipeline
    prompts = (pipeline.prompts.get(name or "", "") for name in (pipeline.document_prompt, pipeline.query_prompt))
    documents, queries = (partial(checkpoint.encode, prompt=prompt) for prompt in prompts)
    return documents, queries


def _over_budget(dataset: str, budget: float | None, rows: Sequence[RetrievalResult]) -> str:
    recalls = ", ".join(f"{row.variant} {row.metrics['recall@10']:.4f}" for row in rows)
    return (
        f"every variant loses more than {budget} of the checkpoint's recall@10 on {dataset}: {recalls}. "
        "No bundle was written. Raise --max-recall-drop if you accept the loss."
    )
