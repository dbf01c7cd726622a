"""Shape walk: periodically rechecks all batch shapes, because a shape that was correct at startup may fail later."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from embedship.batches import BatchLayout, PaddedShape
from embedship.encoder import Encoder
from embedship.serve.batching.executor import BatchExecutor
from embedship.shapes import CertificateSubject, Key, ShapeTexts
from embedship.tokens import TokenBatch

logger = logging.getLogger(__name__)

# Shapes per canary check and device. MiniLM has 252 shapes: with a check every 30 s, each is tested once per hour.
SHAPES = 2


class ShapeWalk:
    """Compares vectors of texts in one shape with those in the next wider shape. Used from the event loop only."""

    def __init__(self, texts: ShapeTexts, shapes: Sequence[PaddedShape], floor: float) -> None:
        self._texts, self._shapes, self._floor = texts, shapes, floor
        self._places: dict[str, int] = {}  # device -> position of its next shape

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> ShapeWalk:
        subject = CertificateSubject.from_encoder(encoder)
        return cls(ShapeTexts.from_subject(subject), subject.layout.shapes(), subject.floor)

    async def check_next(self, workers: BatchExecutor, device: str) -> bool:
        """Check the next SHAPES shapes on a device, and return whether they give the same vectors as wider ones.

        Shapes that differ are no longer used, on any device. Raises EngineFailed.
        """
        place = self._places.get(device, 0)
        self._places[device] = place + SHAPES
        correct = True
        for step in range(place, place + SHAPES):
            shape = self._shapes[step % len(self._shapes)]
            # Skip shapes that are known to be wrong or were excluded meanwhile: they are never computed.
            if workers.layout.shape(*shape) == shape:
                correct &= await self._check(workers, device, shape)
        return correct

    async def _check(self, workers: BatchExecutor, device: str, shape: PaddedShape) -> bool:
        wider = self._wider(workers.layout, shape)
        if wider is None:
            return True
        keys = [(shape.width, number) for number in range(shape.rows)]
        wider_keys = [*keys[: min(shape.rows, wider.rows - 1)], (wider.width, 0)]
        vectors = await workers.encode_on(device, self._tokens(keys))
        wider_vectors = await workers.encode_on(device, self._tokens(wider_keys))
        compared = len(wider_keys) - 1
        likeness = float(self._texts.likeness(vectors[:compared], wider_vectors[:compared]).min())
        if likeness >= self._floor:  # false for NaN
            return True
        logger.error(
            "%s: batches of %dx%d and %dx%d give different vectors for the same texts, likeness %.5f (minimum %g): "
            "neither shape is used any more. Run `embedship verify` to check all shapes",
            device, *shape, *wider, likeness, self._floor,
        )  # fmt: skip
        workers.exclude([shape, wider])
        return False

    def _wider(self, layout: BatchLayout, shape: PaddedShape) -> PaddedShape | None:
        """Return the next wider correct shape, with as many rows as possible: from two up to those of `shape`."""
        for width in (each for each in layout.widths() if each > shape.width):
            rows = max(2, shape.rows)
            while rows > 1:
                if layout.shape(rows, width) == (rows, width):
                    return PaddedShape(rows, width)
                rows //= 2
        return None

    def _tokens(self, keys: Sequence[Key]) -> TokenBatch:
        ids = [self._texts.ids(key) for key in keys]
        return TokenBatch(ids, [0] * len(ids), self._texts.turns(ids))
