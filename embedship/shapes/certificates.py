"""Shape certificates: made by computing every batch shape, stored next to the bundle, and applied to encoders.

A certificate names the batch shapes with wrong vectors. Encoders do not use those shapes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from embedship import hardware, variant_choice
from embedship.batches import BatchLayout, PaddedShape
from embedship.bundle import Bundle, ManifestRecord, Runtime, ShapeCertificate, WrongShape
from embedship.errors import EmbedshipError, ShapesError
from embedship.files import sealed
from embedship.shapes.subject import CertificateSubject, CertifiedEncoder, Encode
from embedship.shapes.texts import ShapeTexts
from embedship.shapes.trial import ShapeTrial

# If a larger share of the shapes is wrong, the others cannot be trusted either.
MOST_WRONG = 0.05
# Shapes of one text up to this width are computed before a server is ready. For MiniLM they take 4 MB each per stream.
WARM_TOKENS = 32

_DISTRIBUTIONS = {
    Runtime.OPENVINO: ("openvino",),
    Runtime.ONNXRUNTIME: ("onnxruntime", "onnxruntime-gpu"),
}
_FORMAT = 1
logger = logging.getLogger(__name__)


class RuntimeIdentity(TypedDict):
    """What a certificate is valid for: fields of `ShapeCertificate`."""

    runtime: str
    isa: tuple[str, ...]
    device: str
    streams: int
    plan: str


class StoredShapes(ManifestRecord, frozen=True):
    """The certificates that were made on this machine, in a file outside the bundle."""

    format: int
    bundle: str  # digest of the bundle's manifest
    created: str
    variants: dict[str, tuple[ShapeCertificate, ...]]
    digest: str = ""


def ensure(
    encoder: CertifiedEncoder, cache: Path | None = None, *, streams: Sequence[Encode] = (), batch_tokens: int = 0
) -> ShapeCertificate:
    """Find the encoder's certificate, or make and store it, and restrict the encoder to right shapes.

    It is stored next to the stored choice (see variant_choice.py). If that file cannot be written, a warning says so
    and the next start certifies again. Raises ShapesError if too many shapes are wrong, EngineError.
    """
    subject = CertificateSubject.from_encoder(encoder, streams, batch_tokens)
    certificate = find(subject, cache)
    if certificate is None:
        logger.warning(
            "the batch shapes of %s are not certified on this machine: computing all of them", encoder.variant.name
        )
        certificate = certify(subject)
        logger.info("%s: %s (%.1f s)", encoder.variant.name, describe_certificate(certificate), certificate.seconds)
        store(encoder, certificate, cache)
    encoder.restrict(require(certificate, subject.layout, encoder.variant.name), certificate)
    return certificate


def restrict_if_certified(encoder: CertifiedEncoder) -> None:
    """Restrict the encoder to right shapes if its certificate is known. Computes nothing. Raises ShapesError."""
    subject = CertificateSubject.from_encoder(encoder)
    if certificate := find(subject):
        encoder.restrict(require(certificate, subject.layout, encoder.variant.name), certificate)


def find(subject: CertificateSubject, cache: Path | None = None) -> ShapeCertificate | None:
    """Return the certificate stored on this machine, else the bundle's own if it applies here, else None."""
    encoder = subject.encoder
    stored = _load(encoder.bundle, cache)
    records = stored.variants.get(encoder.variant.name, ()) if stored else ()
    own = (encoder.variant.shapes,) if encoder.variant.shapes else ()
    return next((each for each in (*records, *own) if applies(each, subject)), None)


def certificates_path(bundle: Bundle, cache: Path | None = None) -> Path:
    """Return the path of this machine's certificates, next to the stored choice."""
    choice = variant_choice.choice_path(bundle, cache)
    return choice.with_name(choice.name.removesuffix(".choice.json") + ".shapes.json")


def _load(bundle: Bundle, cache: Path | None) -> StoredShapes | None:
    path = certificates_path(bundle, cache)
    if not path.exists():
        return None
    try:
        stored = sealed.read(path, StoredShapes, _FORMAT, "stored shape certificate")
    except EmbedshipError as error:
        logger.warning("the shape certificates of this machine are not used: %s", error)
        return None
    return stored if stored.bundle == bundle.manifest.digest else None


def store(encoder: CertifiedEncoder, certificate: ShapeCertificate, cache: Path | None = None) -> None:
    """Store a certificate for the next starts on this machine. Logs a warning if that is not possible."""
    bundle, variant = encoder.bundle, encoder.variant.name
    before = _load(bundle, cache)
    variants = dict(before.variants) if before else {}
    variants[variant] = (certificate, *(each for each in variants.get(variant, ()) if not _same(each, certificate)))
    path = certificates_path(bundle, cache)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        sealed.write(
            draft, StoredShapes(format=_FORMAT, bundle=bundle.manifest.digest, created=created, variants=variants)
        )
        draft.replace(path)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): the next start certifies again, unless --cache (%s) names a writable folder",
            path, error.strerror, variant_choice.CACHE,
        )  # fmt: skip


def _same(one: ShapeCertificate, other: ShapeCertificate) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in RuntimeIdentity.__annotations__)


def certify(subject: CertificateSubject, seed: int = 0) -> ShapeCertificate:
    """Compute every shape of the layout on every stream, and return a certificate with the wrong ones.

    With one stream there are two passes, the second in the opposite order. Raises EngineError.
    """
    start = time.perf_counter()
    trial = ShapeTrial(subject, ShapeTexts.from_subject(subject))
    trial.run(seed)
    wrong = trial.wrong()
    return ShapeCertificate(
        **identity(subject),
        checked=len(subject.layout.shapes()),
        wrong=tuple(WrongShape(rows=s.rows, width=s.width, likeness=round(x, 6)) for s, x in sorted(wrong.items())),
        worst=round(trial.worst, 6),
        seconds=round(time.perf_counter() - start, 2),
    )


def identity(subject: CertificateSubject) -> RuntimeIdentity:
    """Return what a certificate of this subject is valid for."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    isa = hardware.machine().isa + ((f"ONEDNN_MAX_CPU_ISA={limit}",) if limit else ())
    return {
        "runtime": _runtime(subject.encoder.variant.runtime),
        "isa": isa,
        "device": subject.encoder.device,
        "streams": len(subject.streams),
        "plan": hashlib.sha256(repr([*map(tuple, subject.layout.shapes())]).encode()).hexdigest()[:16],
    }


def applies(certificate: ShapeCertificate, subject: CertificateSubject) -> bool:
    """Return whether the certificate is for this plan, runtime and machine, with at least as many streams."""
    own = identity(subject)
    same = all(getattr(certificate, name) == value for name, value in own.items() if name != "streams")
    return same and certificate.streams >= own["streams"]


def require(certificate: ShapeCertificate, layout: BatchLayout, variant: str) -> BatchLayout:
    """Return the layout without the wrong shapes.

    Raises ShapesError if their share is above MOST_WRONG, or if no right shape is left for some text length.
    """
    right = layout.without([PaddedShape(each.rows, each.width) for each in certificate.wrong])
    unusable = [width for width in layout.widths() if right.shape(1, width) is None]
    if len(certificate.wrong) <= MOST_WRONG * certificate.checked and not unusable:
        return right
    detail = f"; texts of {unusable[0]} tokens have no right shape left" if unusable else ""
    raise ShapesError(
        f"variant {variant} gives wrong vectors in {len(certificate.wrong)} of {certificate.checked} batch shapes "
        f"({_worst_shapes(certificate)}), with {certificate.runtime} on {' '.join(certificate.isa)}{detail}. Use "
        "another variant (--variant)"
    )


def _worst_shapes(certificate: ShapeCertificate) -> str:
    """Return the wrong shapes as text, worst first, at most five."""
    worst = sorted(certificate.wrong, key=lambda each: each.likeness)[:5]
    shown = ", ".join(f"{each.rows}x{each.width} {each.likeness:.3f}" for each in worst)
    return shown + (", ..." if len(certificate.wrong) > len(worst) else "")


def describe_certificate(certificate: ShapeCertificate) -> str:
    """Return a summary of the certificate in one line, for a log or a table."""
    if certificate.wrong:
        return (
            f"{len(certificate.wrong)} of {certificate.checked} shapes are wrong here and not used: "
            f"{_worst_shapes(certificate)}"
        )
    return f"{certificate.checked} shapes, none wrong, worst {certificate.worst:.5f}"


def warm(subject: CertificateSubject, most_tokens: int = WARM_TOKENS) -> int:
    """Compute the shapes of one short text on every stream, and return their number.

    The runtime compiles them now, so that no query waits for it later.
    """
    texts = ShapeTexts.from_subject(subject)
    widths = [width for width in subject.layout.widths() if width <= most_tokens]
    shapes = [PaddedShape(1, width) for width in widths if PaddedShape(1, width) not in subject.encoder.layout.wrong]

    def run(encode: Encode) -> None:
        for shape in shapes:
            encode(texts.batch([(shape.width, 0)], shape.width))

    with ThreadPoolExecutor(len(subject.streams)) as threads:
        list(threads.map(run, subject.streams))
    return len(shapes)


def _runtime(runtime: Runtime) -> str:
    for name in _DISTRIBUTIONS[runtime]:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{runtime} of an unknown version"
