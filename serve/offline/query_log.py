"""A log of queries as the drift test takes it: texts are encoded here, vectors are taken as they are."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedship.bundle import Bundle
from embedship.errors import MismatchError, UsageError
from embedship.monitor.drift.offline import LoggedQueries
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import ReferenceMismatch

KEYS = {
    "vectors": "(n, d) float32",
    "sessions": "(n,) whole numbers, negative for none",
    "times": "(n,) Unix seconds",
    "recall": "(n,) from 0 to 1, NaN where not judged",
    "fingerprint": "of the bundle that encoded them",
    "variant": "that encoded them",
}


class DriftLog(NamedTuple):
    """recalls (n,) float64, NaN where not judged; bound: the log names its model, which is the reference's."""

    current: LoggedQueries
    recalls: NDArray[np.float64] | None
    variant: str | None
    bound: bool

    @property
    def timed(self) -> bool:
        return self.current.times is not None


def read_texts(path: Path, bundle: Bundle, variant: str | None, reference: DriftReference) -> DriftLog:
    """Encode JSON Lines as the service does. Raises MismatchError, before anything is encoded, UsageError."""
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.queries import encode, read
    from embedship.serve.progress import bar

    require(reference, bundle.fingerprint)
    log = read(path)
    with Encoder.open(bundle, variant) as encoder, bar("encoding", len(log)) as advance:
        shapes.ensure(encoder)
        golden.check(encoder)
        vectors = encode(encoder, log.texts, advance)
    return DriftLog(
        LoggedQueries(vectors, log.sessions, log.times, tuple(log.texts)), log.recalls, encoder.variant.name, bound=True
    )


def read_npz(path: Path, reference: DriftReference) -> DriftLog:
    """Read an .npz. Raises UsageError for what is no such file, MismatchError if it names another model."""
    found = _load(path)
    if strange := found.keys() - KEYS.keys():
        known = ", ".join(f"{name} {what}" for name, what in KEYS.items())
        raise UsageError(f"{path} holds {sorted(strange)[0]!r}; known are: {known}")
    if "vectors" not in found:
        raise UsageError(f"{path} holds no `vectors`, {KEYS['vectors']}")
    given = found["vectors"]
    if given.dtype.kind != "f":
        raise UsageError(
            f"{path}: `vectors` is {given.dtype}, not {KEYS['vectors']}: these are codes, give the "
            "vectors that they were made of"
        )
    vectors = np.asarray(given, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1:] != reference.vectors.shape[1:] or not len(vectors):
        raise UsageError(
            f"{path} holds vectors of shape {vectors.shape}; the reference has {reference.vectors.shape[1]} dimensions"
        )
    fingerprint, variant = _text(found, "fingerprint"), _text(found, "variant")
    if fingerprint is not None:
        require(reference, fingerprint)
    times, recalls = _times(found, path), _recalls(found, path)
    order = np.arange(len(vectors)) if times is None else np.argsort(times, kind="stable")
    sessions = _column(found, "sessions", path)
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise UsageError(f"{path}: row {row} of `vectors` holds NaN or infinity: leave it out")
    current = LoggedQueries(
        vectors[order],
        None if sessions is None else sessions[order].astype(np.int64),
        None if times is None else times[order],
    )
    return DriftLog(current, None if recalls is None else recalls[order], variant, bound=fingerprint is not None)


def require(reference: DriftReference, fingerprint: str) -> None:
    try:
        reference.require(fingerprint)
    except ReferenceMismatch as error:
        raise MismatchError(str(error)) from None


def _load(path: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no .npz of plain arrays ({error}): write it with numpy.savez") from None


def _text(found: Mapping[str, NDArray[np.generic]], name: str) -> str | None:
    return str(found[name]) if name in found else None


def _times(found: Mapping[str, NDArray[np.generic]], path: Path) -> NDArray[np.float64] | None:
    from embedship.queries import UNIX_SECONDS

    times = _floats(found, "times", path)
    if times is not None and not ((times >= UNIX_SECONDS[0]) & (times <= UNIX_SECONDS[1])).all():
        raise UsageError(f"{path}: `times` are not all Unix times in seconds: are these milliseconds, or is one NaN?")
    return times


def _recalls(found: Mapping[str, NDArray[np.generic]], path: Path) -> NDArray[np.float64] | None:
    recalls = _floats(found, "recall", path)
    if recalls is not None and ((recalls < 0) | (recalls > 1)).any():
        raise UsageError(f"{path}: `recall` is not everywhere {KEYS['recall']}: are these percent?")
    return recalls


def _floats(found: Mapping[str, NDArray[np.generic]], name: str, path: Path) -> NDArray[np.float64] | None:
    column = _column(found, name, path)
    return None if column is None else column.astype(np.float64)


def _column(found: Mapping[str, NDArray[np.generic]], name: str, path: Path) -> NDArray[np.generic] | None:
    if name not in found:
        return None
    column = found[name]
    if column.shape != found["vectors"].shape[:1] or column.dtype.kind not in "iuf":
        raise UsageError(f"{path}: `{name}` is {column.dtype} of shape {column.shape}, not {KEYS[name]}")
    return column
