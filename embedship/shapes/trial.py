"""Shape trial: computes every batch shape on every stream, and finds the shapes with wrong vectors.

Runtimes choose and keep kernels by shape, and a kernel can be wrong for one shape only (docs/openvino-shapes.md). So
each shape is computed on every stream. All streams run at the same time, and each has its own order of shapes. Every
second stream uses the reverse of the order before it, so any two shapes are computed in both orders. Half of the texts
of a batch are also computed in the next wider shape, and the other half in the next narrower one. If the vectors of a
text differ, the text is computed alone in even wider shapes. These results decide which vectors are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from embedship.batches import PaddedShape
from embedship.codes import Vectors
from embedship.errors import EngineError
from embedship.shapes.subject import CertificateSubject, Encode
from embedship.shapes.texts import Key, ShapeTexts

# Number of wider shapes in which a text is computed alone if its vectors differ.
_REFERENCE_SHAPES = 3


@dataclass(slots=True)
class _TextRecord:
    """The results of one text: its first vector, the shapes that agree with it, and those that do not."""

    vector: Vectors  # (1, dim)
    agree: list[PaddedShape] = field(default_factory=list)
    differ: list[tuple[PaddedShape, Vectors]] = field(default_factory=list)


class ShapeTrial:
    """One run of all shapes on all streams."""

    def __init__(self, subject: CertificateSubject, texts: ShapeTexts) -> None:
        self.worst = 1.0  # the lowest likeness between shapes that agree
        self._subject, self._texts = subject, texts
        self._floor = subject.floor
        self._records: dict[Key, _TextRecord] = {}
        self._lock = Lock()

    def run(self, seed: int) -> None:
        """Compute all shapes. Raises EngineError. With one stream there are two passes, the second in reverse."""
        streams, shapes = self._subject.streams, self._subject.layout.shapes()
        orders = [
            _order(shapes, seed + number // 2, backwards=number % 2 == 1) for number in range(max(2, len(streams)))
        ]
        if len(streams) == 1:
            orders = [[*orders[0], *orders[1]]]
        with ThreadPoolExecutor(len(streams)) as threads:
            list(threads.map(self._run_stream, streams, orders))

    def wrong(self) -> dict[PaddedShape, float]:
        """Return shape -> its lowest likeness to the right vector, or -1 if no vector is known to be right."""
        wrong: dict[PaddedShape, float] = {}
        for key, record in self._records.items():
            if not record.differ:
                continue
            right = self._right_vector(key, record)
            rows = [(shape, record.vector) for shape in record.agree] + record.differ
            for shape, row in rows:
                likeness = (
                    -1.0 if right is None else float(np.nan_to_num(self._texts.likeness(right, row)[0], nan=-1.0))
                )
                if not likeness >= self._floor:
                    wrong[shape] = min(likeness, wrong.get(shape, 1.0))
        return wrong

    def _run_stream(self, encode: Encode, shapes: Sequence[PaddedShape]) -> None:
        for shape in shapes:
            for keys in self._batches(shape):
                self._record(shape, keys, encode(self._texts.batch(keys, shape.width)))

    def _batches(self, shape: PaddedShape) -> Iterator[list[Key]]:
        """Yield the texts of each batch of this shape: half are texts of its width, half of the next narrower width."""
        widths = self._texts.widths
        index = widths.index(shape.width)
        narrower = widths[index - 1] if index else None
        if shape.rows == 1:
            yield [(shape.width, 0)]
            if narrower:
                yield [(narrower, 0)]
            return
        half = shape.rows // 2
        own = [(shape.width, number) for number in range(half)]
        yield own + ([(narrower, number) for number in range(half)] if narrower else own)

    def _record(self, shape: PaddedShape, keys: Sequence[Key], vectors: Vectors) -> None:
        if vectors.shape[0] != len(keys):
            raise EngineError(f"the engine returned {len(vectors)} rows for a batch of {len(keys)}")
        with self._lock:
            records = [self._records.setdefault(key, _TextRecord(vectors[at : at + 1])) for at, key in enumerate(keys)]
            likenesses = self._texts.likeness(np.concatenate([record.vector for record in records]), vectors)
            for at, (record, likeness) in enumerate(zip(records, likenesses.tolist(), strict=True)):
                if likeness >= self._floor:  # false for NaN
                    record.agree.append(shape)
                    self.worst = min(self.worst, likeness)
                else:
                    record.differ.append((shape, vectors[at : at + 1]))

    def _right_vector(self, key: Key, record: _TextRecord) -> Vectors | None:
        """Return the vector of most witnesses. If fewer than two exist or they have no majority, use all vectors."""
        reference_vectors = list(self._reference_vectors(key))
        if len(reference_vectors) > 1 and (most := self._majority(reference_vectors)) is not None:
            return most
        return self._majority(
            [record.vector for _ in record.agree] + [row for _, row in record.differ] + reference_vectors
        )

    def _reference_vectors(self, key: Key) -> Iterator[Vectors]:
        """Yield the vectors of the text alone, on every stream, in shapes wider than the two it was batched in."""
        widths = self._texts.widths
        index = widths.index(key[0])
        for width in widths[index + 2 : index + 2 + _REFERENCE_SHAPES]:
            for encode in self._subject.streams:
                yield encode(self._texts.batch([key], width))

    def _majority(self, rows: Sequence[Vectors]) -> Vectors | None:
        for row in rows:
            if sum(self._texts.likeness(row, other)[0] >= self._floor for other in rows) * 2 > len(rows):
                return row
        return None


def _order(shapes: Sequence[PaddedShape], seed: int, backwards: bool) -> list[PaddedShape]:
    order = [shapes[index] for index in np.random.default_rng(seed).permutation(len(shapes))]
    return order[::-1] if backwards else order
