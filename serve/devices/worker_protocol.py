"""Batches and vectors as bytes on the way to a worker process and back. Plain arrays, nothing pickled. Pure.

A batch is `number, rows, width`, two (rows, width) int64 arrays and, of pairs, (rows,) int64 turns; an answer is
`number, kind, rows, width` and (rows, width) float32, or a message. Both ends are of one machine and one version:
bytes are in its own order.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError

import numpy as np

from embedship.batches import Batch
from embedship.codes import Vectors
from embedship.errors import EngineError

_BATCH = Struct("=QII")
_ANSWER = Struct("=QBII")


class MessageKind(IntEnum):
    VECTORS = 0
    FAILURE = 1


def batch_bytes(number: int, batch: Batch) -> bytes:
    head = _BATCH.pack(number, *batch.input_ids.shape)
    turns = b"" if batch.turns is None else batch.turns.tobytes()
    return b"".join((head, batch.input_ids.tobytes(), batch.attention_mask.tobytes(), turns))


def read_batch(raw: bytes) -> tuple[int, Batch]:
    """The number of a batch, and the batch, its arrays read-only views of `raw`."""
    number, rows, width = _BATCH.unpack_from(raw)
    values = np.frombuffer(raw, dtype=np.int64, offset=_BATCH.size)
    arrays, turns = values[: 2 * rows * width].reshape(2, rows, width), values[2 * rows * width :]
    return number, Batch(arrays[0], arrays[1], turns if len(turns) else None)


def vectors_bytes(number: int, vectors: Vectors) -> bytes:
    return _ANSWER.pack(number, MessageKind.VECTORS, *vectors.shape) + vectors.tobytes()


def failure_bytes(number: int, message: str) -> bytes:
    return _ANSWER.pack(number, MessageKind.FAILURE, 0, 0) + message.encode()


def read_answer(raw: bytes, number: int) -> Vectors:
    """The vectors of batch `number`, a read-only view of `raw`. Raises EngineError for a failure or another answer."""
    try:
        theirs, kind, rows, width = _ANSWER.unpack_from(raw)
    except StructError:
        raise EngineError(f"a worker process answered {len(raw)} bytes, which is no answer") from None
    if theirs != number:
        raise EngineError(f"a worker process answered batch {theirs} where {number} was asked")
    if kind == MessageKind.FAILURE:
        raise EngineError(raw[_ANSWER.size :].decode())
    if len(raw) != _ANSWER.size + 4 * rows * width:
        raise EngineError(f"a worker process answered {len(raw)} bytes for {rows} vectors of {width} dimensions")
    return np.frombuffer(raw, dtype=np.float32, offset=_ANSWER.size).reshape(rows, width)
