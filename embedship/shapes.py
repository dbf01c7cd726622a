"""The shape certificate: does every shape of batch that the planner can make give right vectors, here?

Runtimes choose and keep kernels by shape, and a kernel can be wrong for one shape only (docs/openvino-shapes.md). So
each shape is computed on every stream, all streams at once, in an order of each stream's own; half of the streams go
through it backwards, so that of any two shapes each is met after the other. Half of a batch's texts are computed in the
next wider shape as well, and half in the next narrower one. What differs is settled by the same texts alone in shapes
that are wider still. Wrong shapes leave the plan.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from embedship import hardware, variant_choice
from embedship.batches import Batch, BatchLayout, PaddedShape
from embedship.bundle import Bundle, ManifestRecord, Runtime, ShapeCertificate, Task, Variant, WrongShape
from embedship.codes import Vectors
from embedship.engine.protocol import Engine
from embedship.errors import EmbedshipError, EngineError, GateError
from embedship.files import sealed
from embedship.golden_texts import GoldenTexts, batch_invariance_floor
from embedship.likeness import spread
from embedship.tokens import Tokenizer

# More wrong shapes than this, and nobody should trust the others.
MOST_WRONG = 0.05
# Wider shapes in which a disputed text is computed alone.
_WITNESSES = 3
# Shapes of one text that are computed before a server says that it is ready. They take 4 MB a stream each for MiniLM.
WARM_TOKENS = 32

_DISTRIBUTIONS = {
    Runtime.OPENVINO: ("openvino",),
    Runtime.ONNXRUNTIME: ("onnxruntime", "onnxruntime-gpu"),
}
_LOGGER = logging.getLogger(__name__)

Encode = Callable[[Batch], Vectors]


class CertifiedEncoder(Protocol):
    """What is read and restricted of an `embedship.encoder.Encoder`, which imports this module."""

    bundle: Bundle
    variant: Variant
    tokenizer: Tokenizer
    engine: Engine
    layout: BatchLayout
    device: str

    def restrict(self, layout: BatchLayout, certificate: ShapeCertificate) -> None:
        """From now on use no shapes but those of `layout`, which keeps to `certificate`."""


class CertificateSubject(NamedTuple):
    """What is certified: the variant of an encoder, as `streams` compute it in the shapes of `layout`."""

    encoder: CertifiedEncoder
    streams: tuple[Encode, ...]
    layout: BatchLayout

    @classmethod
    def of(cls, encoder: CertifiedEncoder, streams: Sequence[Encode] = (), batch_tokens: int = 0) -> CertificateSubject:
        """`streams` are by default those of the engine; batches of more tokens than usual make more shapes."""
        layout = replace(encoder.layout, wrong=frozenset(), budget=max(encoder.layout.budget, batch_tokens))
        return cls(encoder, tuple(streams) or (encoder.engine.encode,) * encoder.engine.streams, layout)

    @property
    def floor(self) -> float:
        """How alike a text's vectors in two shapes must be."""
        return batch_invariance_floor(
            self.encoder.variant, self.encoder.bundle.manifest.floors[self.encoder.engine.precision]
        )


class _RuntimeIdentity(TypedDict):
    runtime: str
    isa: tuple[str, ...]
    device: str
    streams: int
    plan: str


_FORMAT = 1


class StoredShapes(ManifestRecord, frozen=True):
    """What was certified on this machine, outside the bundle."""

    format: int
    bundle: str  # digest of the manifest
    created: str
    variants: dict[str, tuple[ShapeCertificate, ...]]
    digest: str = ""


def ensure(
    encoder: CertifiedEncoder, cache: Path | None = None, *, streams: Sequence[Encode] = (), batch_tokens: int = 0
) -> ShapeCertificate:
    """Certify the encoder, unless the bundle or this machine's file knows it already, and keep it from wrong shapes.

    What is found is stored beside the choice (see choice.py); where that cannot be written the next start certifies
    again, and a warning says so. Raises GateError where too many shapes are wrong, EngineError.
    """
    subject = CertificateSubject.of(encoder, streams, batch_tokens)
    found = known(subject, cache)
    if found is None:
        _LOGGER.warning("the shapes of batches of %s are not certified here: running all", encoder.variant.name)
        found = certify(subject)
        _LOGGER.info("%s: %s (%.1f s)", encoder.variant.name, remark(found), found.seconds)
        keep(encoder, found, cache)
    encoder.restrict(require(found, subject.layout, encoder.variant.name), found)
    return found


def recall(encoder: CertifiedEncoder) -> None:
    """Keep the encoder from the shapes that are known to be wrong here; nothing is computed. Raises GateError."""
    subject = CertificateSubject.of(encoder)
    if found := known(subject):
        encoder.restrict(require(found, subject.layout, encoder.variant.name), found)


def known(subject: CertificateSubject, cache: Path | None = None) -> ShapeCertificate | None:
    """The certificate of this machine, else the bundle's own if it was made on one like it, else None."""
    encoder = subject.encoder
    stored = _load(encoder.bundle, cache)
    records = stored.variants.get(encoder.variant.name, ()) if stored else ()
    own = (encoder.variant.shapes,) if encoder.variant.shapes else ()
    return next((each for each in (*records, *own) if applies(each, subject)), None)


def place(bundle: Bundle, cache: Path | None = None) -> Path:
    """The file of this machine, beside the stored choice."""
    beside = variant_choice.choice_path(bundle, cache)
    return beside.with_name(beside.name.removesuffix(".choice.json") + ".shapes.json")


def _load(bundle: Bundle, cache: Path | None) -> StoredShapes | None:
    path = place(bundle, cache)
    if not path.exists():
        return None
    try:
        stored = sealed.read(path, StoredShapes, _FORMAT, "stored shape certificate")
    except EmbedshipError as error:
        _LOGGER.warning("the shapes certified on this machine are not used: %s", error)
        return None
    return stored if stored.bundle == bundle.manifest.digest else None


def keep(encoder: CertifiedEncoder, found: ShapeCertificate, cache: Path | None = None) -> None:
    """Store a certificate for the next starts on this machine; a warning, if that is not possible."""
    bundle, variant = encoder.bundle, encoder.variant.name
    before = _load(bundle, cache)
    variants = dict(before.variants) if before else {}
    variants[variant] = (found, *(each for each in variants.get(variant, ()) if not _same(each, found)))
    path = place(bundle, cache)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        sealed.write(
            draft, StoredShapes(format=_FORMAT, bundle=bundle.manifest.digest, created=created, variants=variants)
        )
        draft.replace(path)
    except OSError as error:
        _LOGGER.warning(
            "%s cannot be written (%s): the next start certifies again, unless --cache (%s) names a folder that can",
            path, error.strerror, variant_choice.CACHE,
        )  # fmt: skip


def _same(one: ShapeCertificate, other: ShapeCertificate) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _RuntimeIdentity.__annotations__)


def certify(subject: CertificateSubject, seed: int = 0) -> ShapeCertificate:
    """Compute every shape of the layout on every stream and return which are wrong. Raises EngineError.

    With one stream there are two passes, the second in the opposite order.
    """
    began = time.perf_counter()
    texts = ShapeTexts.of(subject)
    trial = _ShapeTrial(subject, texts)
    trial.run(seed)
    wrong = trial.wrong()
    return ShapeCertificate(
        **identity(subject),
        checked=len(subject.layout.shapes()),
        wrong=tuple(WrongShape(rows=s.rows, width=s.width, likeness=round(x, 6)) for s, x in sorted(wrong.items())),
        worst=round(trial.worst, 6),
        seconds=round(time.perf_counter() - began, 2),
    )


def identity(subject: CertificateSubject) -> _RuntimeIdentity:
    """What a certificate holds for: fields of `ShapeCertificate`."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    isa = hardware.machine().isa + ((f"ONEDNN_MAX_CPU_ISA={limit}",) if limit else ())
    return {
        "runtime": _runtime(subject.encoder.variant.runtime),
        "isa": isa,
        "device": subject.encoder.device,
        "streams": len(subject.streams),
        "plan": hashlib.sha256(repr([*map(tuple, subject.layout.shapes())]).encode()).hexdigest()[:16],
    }


def applies(found: ShapeCertificate, subject: CertificateSubject) -> bool:
    """Whether the certificate is of this plan, runtime and machine, with as many streams or more."""
    ours = identity(subject)
    same = all(getattr(found, name) == value for name, value in ours.items() if name != "streams")
    return same and found.streams >= ours["streams"]


def require(found: ShapeCertificate, layout: BatchLayout, variant: str) -> BatchLayout:
    """The layout without the wrong shapes.

    Raises GateError if they are more than MOST_WRONG of all, or a length of text is left with no right shape.
    """
    kept = layout.without([PaddedShape(each.rows, each.width) for each in found.wrong])
    homeless = [width for width in layout.widths() if kept.shape(1, width) is None]
    if len(found.wrong) <= MOST_WRONG * found.checked and not homeless:
        return kept
    left = f"; texts of {homeless[0]} tokens have no right shape left" if homeless else ""
    raise GateError(
        f"variant {variant} gives wrong vectors in {len(found.wrong)} of {found.checked} shapes of batches here "
        f"({described(found)}), with {found.runtime} on {' '.join(found.isa)}{left}. Take another variant (--variant)"
    )


def described(found: ShapeCertificate) -> str:
    """The wrong shapes, worst first: at most five."""
    worst = sorted(found.wrong, key=lambda each: each.likeness)[:5]
    shown = ", ".join(f"{each.rows}x{each.width} {each.likeness:.3f}" for each in worst)
    return shown + (", ..." if len(found.wrong) > len(worst) else "")


def remark(found: ShapeCertificate) -> str:
    """One line for a log or a table."""
    if found.wrong:
        return f"{len(found.wrong)} of {found.checked} shapes are wrong here and not used: {described(found)}"
    return f"{found.checked} shapes, none wrong, worst {found.worst:.5f}"


def warm(subject: CertificateSubject, most_tokens: int = WARM_TOKENS) -> int:
    """Compute the shapes of one short text on every stream, so that no query waits for a compiler. Returns how many."""
    texts = ShapeTexts.of(subject)
    widths = [width for width in subject.layout.widths() if width <= most_tokens]
    shapes = [PaddedShape(1, width) for width in widths if PaddedShape(1, width) not in subject.encoder.layout.wrong]

    def run(encode: Encode) -> None:
        for shape in shapes:
            encode(texts.batch([(shape.width, 0)], shape.width))

    with ThreadPoolExecutor(len(subject.streams)) as threads:
        list(threads.map(run, subject.streams))
    return len(shapes)


Key = tuple[int, int]  # width, number


@dataclass(frozen=True, slots=True)
class ShapeTexts:
    """Texts made of golden ones: any number for each width, the first as long as the width."""

    stream: list[int]
    first: list[int]
    last: list[int]
    pairs: bool
    widths: list[int]
    pad_id: int
    spread: float | None  # of the golden scores; None: vectors

    @classmethod
    def of(cls, subject: CertificateSubject) -> ShapeTexts:
        golden = GoldenTexts.load(subject.encoder.bundle)
        tokens = subject.encoder.tokenizer(golden.real)
        rows = [row for row in tokens.ids if row]
        # A tokenizer that frames its texts begins all with one id, and ends all with one.
        heads, tails = {row[0] for row in rows}, {row[-1] for row in rows}
        first, last = ([*ids] if len(ids) == 1 else [] for ids in (heads, tails))
        stream = [i for row in rows for i in row[len(first) : len(row) - len(last)]] or rows[0]
        scores = None if subject.encoder.bundle.task is Task.EMBED else spread(golden.vectors)
        layout = subject.layout
        return cls(stream, first, last, any(tokens.turns), layout.widths(), layout.pad_id, scores)

    def ids(self, key: Key) -> list[int]:
        width, number = key
        place = self.widths.index(width)
        shortest = self.widths[place - 1] + 1 if place else 1
        length = width - (number % (width - shortest + 1))
        frame = len(self.first) + len(self.last)
        if length <= frame:
            return [*self.first, *self.last][:length]
        start = 37 * number + 13 * width
        inner = [self.stream[(start + i) % len(self.stream)] for i in range(length - frame)]
        return [*self.first, *inner, *self.last]

    def batch(self, keys: Sequence[Key], width: int) -> Batch:
        """These texts, one a row, (n, width)."""
        ids = [self.ids(key) for key in keys]
        mask = np.zeros((len(ids), width), dtype=np.int64)
        laid = np.full_like(mask, self.pad_id)
        for place, row in enumerate(ids):
            laid[place, : len(row)], mask[place, : len(row)] = row, 1
        return Batch(laid, mask).turned(self.turns(ids))

    def turns(self, ids: Sequence[Sequence[int]]) -> list[int]:
        """Where the second texts begin; none, where the model reads no pairs."""
        return [len(row) // 2 for row in ids] if self.pairs else []

    def alike(self, expected: Vectors, found: Vectors) -> npt.NDArray[np.float64]:
        """(n,) of (n, dim): 1 is the same. Lengths count, too: where vectors have no unit length a cosine is blind."""
        a, b = expected.astype(np.float64), found.astype(np.float64)
        if self.spread is not None:
            return np.maximum(1 - ((a - b)[:, 0] / self.spread) ** 2 / 2, -1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
            same: npt.NDArray[np.float64] = 1 - (np.linalg.norm(a - b, axis=1) / size) ** 2 / 2
            return np.where((size == 0) & np.isfinite(size), 1.0, same)


@dataclass(slots=True)
class _TextRecord:
    """What became of one text: its first vector, the shapes that agree with it, and those that do not."""

    vector: Vectors  # (1, dim)
    agree: list[PaddedShape] = field(default_factory=list)
    differ: list[tuple[PaddedShape, Vectors]] = field(default_factory=list)


class _ShapeTrial:
    """One run of all shapes over all streams."""

    def __init__(self, subject: CertificateSubject, texts: ShapeTexts) -> None:
        self.worst = 1.0  # of those that agree
        self._subject, self._texts = subject, texts
        self._floor = subject.floor
        self._seen: dict[Key, _TextRecord] = {}
        self._lock = Lock()

    def run(self, seed: int) -> None:
        streams, shapes = self._subject.streams, self._subject.layout.shapes()
        orders = [
            _order(shapes, seed + number // 2, backwards=number % 2 == 1) for number in range(max(2, len(streams)))
        ]
        if len(streams) == 1:
            orders = [[*orders[0], *orders[1]]]
        with ThreadPoolExecutor(len(streams)) as threads:
            list(threads.map(self._go, streams, orders))

    def _go(self, encode: Encode, shapes: Sequence[PaddedShape]) -> None:
        for shape in shapes:
            for keys in self._fillings(shape):
                self._note(shape, keys, encode(self._texts.batch(keys, shape.width)))

    def _fillings(self, shape: PaddedShape) -> Iterator[list[Key]]:
        """The texts of its batches: half its own, which the next wider shape computes, too, half of the one before."""
        widths = self._texts.widths
        place = widths.index(shape.width)
        before = widths[place - 1] if place else None
        if shape.rows == 1:
            yield [(shape.width, 0)]
            if before:
                yield [(before, 0)]
            return
        half = shape.rows // 2
        own = [(shape.width, number) for number in range(half)]
        yield own + ([(before, number) for number in range(half)] if before else own)

    def _note(self, shape: PaddedShape, keys: Sequence[Key], vectors: Vectors) -> None:
        if vectors.shape[0] != len(keys):
            raise EngineError(f"the engine gave {len(vectors)} rows for a batch of {len(keys)}")
        with self._lock:
            firsts = [self._seen.setdefault(key, _TextRecord(vectors[at : at + 1])) for at, key in enumerate(keys)]
            alike = self._texts.alike(np.concatenate([first.vector for first in firsts]), vectors)
            for at, (first, likeness) in enumerate(zip(firsts, alike.tolist(), strict=True)):
                if likeness >= self._floor:  # a NaN is not
                    first.agree.append(shape)
                    self.worst = min(self.worst, likeness)
                else:
                    first.differ.append((shape, vectors[at : at + 1]))

    def wrong(self) -> dict[PaddedShape, float]:
        """Shape -> its worst likeness to what is right; -1 where nothing is."""
        found: dict[PaddedShape, float] = {}
        for key, seen in self._seen.items():
            if not seen.differ:
                continue
            right = self._right(key, seen)
            rows = [(shape, seen.vector) for shape in seen.agree] + seen.differ
            for shape, row in rows:
                alike = -1.0 if right is None else float(np.nan_to_num(self._texts.alike(right, row)[0], nan=-1.0))
                if not alike >= self._floor:
                    found[shape] = min(alike, found.get(shape, 1.0))
        return found

    def _right(self, key: Key, seen: _TextRecord) -> Vectors | None:
        """What most witnesses say; where they are too few, most of all."""
        witnesses = list(self._witnesses(key))
        if len(witnesses) > 1 and (most := self._most(witnesses)) is not None:
            return most
        return self._most([seen.vector for _ in seen.agree] + [row for _, row in seen.differ] + witnesses)

    def _witnesses(self, key: Key) -> Iterator[Vectors]:
        """The text alone, in shapes wider than the two that are disputed, on every stream."""
        widths = self._texts.widths
        place = widths.index(key[0])
        for width in widths[place + 2 : place + 2 + _WITNESSES]:
            for encode in self._subject.streams:
                yield encode(self._texts.batch([key], width))

    def _most(self, rows: Sequence[Vectors]) -> Vectors | None:
        for row in rows:
            if sum(self._texts.alike(row, other)[0] >= self._floor for other in rows) * 2 > len(rows):
                return row
        return None


def _order(shapes: Sequence[PaddedShape], seed: int, backwards: bool) -> list[PaddedShape]:
    order = [shapes[place] for place in np.random.default_rng(seed).permutation(len(shapes))]
    return order[::-1] if backwards else order


def _runtime(runtime: Runtime) -> str:
    for name in _DISTRIBUTIONS[runtime]:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{runtime} of an unknown version"
