"""A batch as the named inputs of a model graph."""

from __future__ import annotations

from embedship.batches import Batch
from embedship.errors import EngineError


def feed(batch: Batch, inputs: tuple[str, ...]) -> dict[str, object]:
    """The named graph inputs of a batch; token types are all zero but for the second texts of pairs."""
    if batch.input_ids.shape != batch.attention_mask.shape:
        # OpenVINO mostly returns no rows then, and at times rows of something.
        shapes = f"ids of {batch.input_ids.shape}, a mask of {batch.attention_mask.shape}"
        raise EngineError(f"failed on a batch of {len(batch)}: {shapes}")
    known = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return {name: known.get(name, batch.token_types) for name in inputs}
