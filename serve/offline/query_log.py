"""Query log for the drift test: texts from JSON Lines, which are encoded, or vectors from an .npz file."""

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
from embedship.serve.index.arrays import HEADER_ERRORS

KEYS = {
    "vectors": "(n, d) float32",
    "sessions": "(n,) integers, negative for queries without a session",
    "times": "(n,) Unix seconds",
    "recall": "(n,) from 0 to 1, NaN if not judged",
    "fingerprint": "of the bundle that encoded the queries",
    "variant": "that encoded the queries",
}


class DriftLog(NamedTuple):
    """A query log. recalls: (n,) float64, NaN if not judged.

    `bound`: the log states its model, and it is the model of the reference.
    """

    current: LoggedQueries
    recalls: NDArray[np.float64] | None
    variant: str | None
    bound: bool

    @property
    def timed(self) -> bool:
        return self.current.times is not None


def read_texts(path: Path, bundle: Bundle, variant: str | None, reference: DriftReference) -> DriftLog:
    """Encode the texts of a JSON Lines file in the same way as the server does.

    Raises MismatchError, before any text is encoded, if the bundle is not the reference's model; UsageError for an
    invalid file.
    """
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.queries import encode, read
    from embedship.serve.progress import bar

    require_model(reference, bundle.fingerprint)
    log = read(path)
    with Encoder.open(bundle, variant) as encoder, bar("encoding", len(log)) as advance:
        shapes.ensure(encoder)
        golden.check(encoder)
        vectors = encode(encoder, log.texts, advance)
    return DriftLog(
        LoggedQueries(vectors, log.sessions, log.times, tuple(log.texts)), log.recalls, encoder.variant.name, bound=True
    )


def read_npz(path: Path, reference: DriftReference) -> DriftLog:
    """Read an .npz file with the arrays in KEYS, sorted by time.

    Raises UsageError for an invalid file, MismatchError if it names another model than the reference's.
    """
    arrays = _load(path)
    if unknown := arrays.keys() - KEYS.keys():
        known = ", ".join(f"{name} {content}" for name, content in KEYS.items())
        raise UsageError(f"{path} contains the unknown array {sorted(unknown)[0]!r}. Allowed: {known}")
    if "vectors" not in arrays:
        raise UsageError(f"{path} contains no `vectors`, {KEYS['vectors']}")
    raw = arrays["vectors"]
    if raw.dtype.kind != "f":
        raise UsageError(
            f"{path}: `vectors` is {raw.dtype}, not {KEYS['vectors']}. These are quantised codes: give the vectors "
            "that they were made from"
        )
    vectors = np.asarray(raw, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1:] != reference.vectors.shape[1:] or not len(vectors):
        raise UsageError(
            f"{path} contains vectors of shape {vectors.shape}, but the reference has {reference.vectors.shape[1]} "
            "dimensions"
        )
    fingerprint, variant = _text(arrays, "fingerprint"), _text(arrays, "variant")
    if fingerprint is not None:
        require_model(reference, fingerprint)
    times, recalls = _times(arrays, path), _recalls(arrays, path)
    order = np.arange(len(vectors)) if times is None else np.argsort(times, kind="stable")
    sessions = _column(arrays, "sessions", path)
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise UsageError(f"{path}: row {row} of `vectors` contains NaN or infinity: remove this row")
    current = LoggedQueries(
        vectors[order],
        None if sessions is None else sessions[order].astype(np.int64),
        None if times is None else times[order],
    )
    return DriftLog(current, None if recalls is None else recalls[order], variant, bound=fingerprint is not None)


def require_model(reference: DriftReference, fingerprint: str) -> None:
    """Raise MismatchError unless the reference belongs to the model with this fingerprint."""
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
    except (*HEADER_ERRORS, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npz file of plain arrays ({error}): write it with numpy.savez") from None


def _text(arrays: Mapping[str, NDArray[np.generic]], name: str) -> str | None:
    return str(arrays[name]) if name in arrays else None


def _times(arrays: Mapping[str, NDArray[np.generic]], path: Path) -> NDArray[np.float64] | None:
    from embedship.queries import UNIX_SECONDS

    times = _floats(arrays, "times", path)
    if times is not None and not ((times >= UNIX_SECONDS[0]) & (times <= UNIX_SECONDS[1])).all():
        raise UsageError(
            f"{path}: `times` must be Unix times in seconds, and some are not. Check for milliseconds and NaN"
        )
    return times


def _recalls(arrays: Mapping[str, NDArray[np.generic]], path: Path) -> NDArray[np.float64] | None:
    recalls = _floats(arrays, "recall", path)
    if recalls is not None and ((recalls < 0) | (recalls > 1)).any():
        raise UsageError(f"{path}: `recall` must be {KEYS['recall']}, and some values are not. Check for percentages")
    return recalls


def _floats(arrays: Mapping[str, NDArray[np.generic]], name: str, path: Path) -> NDArray[np.float64] | None:
    column = _column(arrays, name, path)
    return None if column is None else column.astype(np.float64)


def _column(arrays: Mapping[str, NDArray[np.generic]], name: str, path: Path) -> NDArray[np.generic] | None:
    if name not in arrays:
        return None
    column = arrays[name]
    if column.shape != arrays["vectors"].shape[:1] or column.dtype.kind not in "iuf":
        raise UsageError(f"{path}: `{name}` is {column.dtype} of shape {column.shape}, not {KEYS[name]}")
    return column
