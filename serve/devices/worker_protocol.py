"""The wire format between the server and a worker process: batches and vectors as plain bytes, without pickle.

A batch is `number, rows, width`, two (rows, width) int64 arrays (input ids, attention mask) and, for pairs, (rows,)
int64 turns (positions where the second texts begin). An answer is `number, kind, rows, width` and (rows, width) float32
vectors, or an error message. Both ends run on one machine and have one version, so the bytes are in native order.
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
    """Content of an answer."""

    VECTORS = 0
    FAILURE = 1


def batch_bytes(number: int, batch: Batch) -> bytes:
    """Encode a batch."""
    head = _BATCH.pack(number, *batch.input_ids.shape)
    turns = b"" if batch.turns is None else batch.turns.tobytes()
    return b"".join((head, batch.input_ids.tobytes(), batch.attention_mask.tobytes(), turns))


def read_batch(raw: bytes) -> tuple[int, Batch]:
    """Return the number of a batch, and the batch. Its arrays are read-only views of `raw`."""
    number, rows, width = _BATCH.unpack_from(raw)
    values = np.frombuffer(raw, dtype=np.int64, offset=_BATCH.size)
    arrays, turns = values[: 2 * rows * width].reshape(2, rows, width), values[2 * rows * width :]
    return number, Batch(arrays[0], arrays[1], turns if len(turns) else None)


def vectors_bytes(number: int, vectors: Vectors) -> bytes:
    """Encode the answer to a batch: (rows, width) float32 vectors."""
    return _ANSWER.pack(number, MessageKind.VECTORS, *vectors.shape) + vectors.tobytes()


def failure_bytes(number: int, message: str) -> bytes:
    """Encode the answer to a batch that failed."""
    return _ANSWER.pack(number, MessageKind.FAILURE, 0, 0) + message.encode()


def read_answer(raw: bytes, number: int) -> Vectors:
    """Return the vectors of batch `number`, as a read-only view of `raw`.

    Raises EngineError for a failure, for the answer to another batch, and for bytes that are not a valid answer.
    """
    try:
        answered, kind, rows, width = _ANSWER.unpack_from(raw)
    except StructError:
        raise EngineError(f"a worker process sent {len(raw)} bytes, which is too short for an answer") from None
    if answered != number:
        raise EngineError(f"a worker process answered batch {answered}, but batch {number} was sent")
    if kind == MessageKind.FAILURE:
        raise EngineError(raw[_ANSWER.size :].decode())
    if len(raw) != _ANSWER.size + 4 * rows * width:
        raise EngineError(f"a worker process sent {len(raw)} bytes for {rows} vectors of {width} dimensions")
    return np.frombuffer(raw, dtype=np.float32, offset=_ANSWER.size).reshape(rows, width)
