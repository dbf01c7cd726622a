"""The canaries' walk through the shapes of batches: what was right when the server started may not stay so."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from embedship.batches import BatchLayout, PaddedShape
from embedship.encoder import Encoder
from embedship.serve.batching.executor import BatchExecutor
from embedship.shapes import CertificateSubject, Key, ShapeTexts
from embedship.tokens import TokenBatch

logger = logging.getLogger(__name__)

# A round and device. MiniLM has 252 shapes: at a round every 30 s each is met once an hour.
SHAPES = 2


class ShapeWalk:
    """Compares texts in one shape with the same texts in the next wider one. Used from the event loop only."""

    def __init__(self, texts: ShapeTexts, shapes: Sequence[PaddedShape], floor: float) -> None:
        self._texts, self._shapes, self._floor = texts, shapes, floor
        self._places: dict[str, int] = {}  # device -> of its next shape

    @classmethod
    def of(cls, encoder: Encoder) -> ShapeWalk:
        subject = CertificateSubject.of(encoder)
        return cls(ShapeTexts.of(subject), subject.layout.shapes(), subject.floor)

    async def on(self, workers: BatchExecutor, device: str) -> bool:
        """Try the next SHAPES of a device. Shapes that differ are used no more, on no device, and the answer is False.

        Raises EngineFailed.
        """
        place = self._places.get(device, 0)
        self._places[device] = place + SHAPES
        right = True
        for step in range(place, place + SHAPES):
            shape = self._shapes[step % len(self._shapes)]
            # A shape that is wrong, or was left out meanwhile, is never computed.
            if workers.layout.shape(*shape) == shape:
                right &= await self._same(workers, device, shape)
        return right

    async def _same(self, workers: BatchExecutor, device: str, shape: PaddedShape) -> bool:
        wider = self._wider(workers.layout, shape)
        if wider is None:
            return True
        keys = [(shape.width, number) for number in range(shape.rows)]
        beside = [*keys[: min(shape.rows, wider.rows - 1)], (wider.width, 0)]
        found = await workers.encode_on(device, self._tokens(keys))
        again = await workers.encode_on(device, self._tokens(beside))
        compared = len(beside) - 1
        likeness = float(self._texts.alike(found[:compared], again[:compared]).min())
        if likeness >= self._floor:  # a NaN is not
            return True
        logger.error(
            "%s: batches of %dx%d and %dx%d give the same texts other vectors, likeness %.5f (floor %g): neither shape "
            "is used any more. `embedship verify` tries all", device, *shape, *wider, likeness, self._floor,
        )  # fmt: skip
        workers.exclude([shape, wider])
        return False

    def _wider(self, layout: BatchLayout, shape: PaddedShape) -> PaddedShape | None:
        """The next wider right shape, of as many rows or of the most below that fit: two at least."""
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
