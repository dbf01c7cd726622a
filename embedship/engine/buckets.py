"""Batches of few shapes, for devices that plan, allocate or compile once a shape. Pure."""

from __future__ import annotations

import numpy as np

from embedship.batches import Batch

# Tensor cores take multiples of 8; at 16 a batch of 128 tokens is padded by 6% at most, and 512 tokens make 32 widths.
_WIDTH = 16


def pad_to_bucket(batch: Batch, pad_id: int) -> Batch:
    """The batch in a larger rectangle: width a multiple of 16, rows the next power of two.

    Rows that are added hold one token, so that a mean over the mask divides by 1 and not by 0; they are the last ones.
    """
    rows, width = batch.input_ids.shape
    tall, wide = 1 << (rows - 1).bit_length(), -(-width // _WIDTH) * _WIDTH
    if (tall, wide) == (rows, width):
        return batch
    ids = np.full((tall, wide), pad_id, dtype=np.int64)
    mask = np.zeros((tall, wide), dtype=np.int64)
    ids[:rows, :width], mask[:rows, :width] = batch.input_ids, batch.attention_mask
    mask[rows:, 0] = 1
    turns = None if batch.turns is None else np.pad(batch.turns, (0, tall - rows))
    return Batch(ids, mask, turns)
