"""Named graph inputs of a batch."""

from __future__ import annotations

from embedship.batches import Batch
from embedship.errors import EngineError


def feed(batch: Batch, inputs: tuple[str, ...]) -> dict[str, object]:
    """Return the named graph inputs of a batch. Token types are zero, except in the second texts of pairs."""
    if batch.input_ids.shape != batch.attention_mask.shape:
        # OpenVINO usually returns no rows for such a batch, and sometimes wrong rows.
        shapes = f"token ids {batch.input_ids.shape}, attention mask {batch.attention_mask.shape}"
        raise EngineError(f"failed on a batch of {len(batch)} with different shapes: {shapes}")
    known = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return {name: known.get(name, batch.token_types) for name in inputs}
