"""The drift reference: a bounded sample of query vectors, bound to one model by its fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedship.monitor.drift.calibration import LEAST_SESSIONS, ScoreCalibration, Times, calibrate, features
from embedship.monitor.drift.false_alarms import DEFAULT, FalseAlarms
from embedship.monitor.drift.features import ShiftFeatures
from embedship.monitor.drift.repeats import distinct_rows
from embedship.monitor.drift.sessions import Ids, index_of
from embedship.monitor.errors import InvalidSetting, InvalidVectors, ReferenceMismatch, ReferenceUnreadable

FORMAT = 3
SCORE_BEFORE = 2  # the format whose vectors hold, and whose thresholds are of another score
KEY = "embedship.reference"
MAXIMUM = 2_000
WINDOW = 1_000
MOST_WINDOW = 1_000_000_000  # queries; no ring of more fits into memory
INTERVAL_SECONDS = 60.0
# How far lengths may be from 1: float16 and int8 engines stay far below the first. The second is for vectors on their
# way through a server, which come from the engine: only what is no vector of the model at all.
LENGTH_TOLERANCE, LOOSE_LENGTH_TOLERANCE = 0.01, 0.5
_VARIANT = "offset:"  # before a variant's name, in the names of tensors

Vectors = NDArray[np.float32]


class FalseAlarmGuarantee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The false alarms that thresholds were fitted for, and what held-out blocks of the reference then showed."""

    false_alarms: FalseAlarms
    interval_seconds: float  # between evaluations
    threshold: float
    measured_per_day: float
    measured_lower_per_day: float  # the ends of its 95% interval
    measured_upper_per_day: float

    @classmethod
    def of(
        cls, calibration: ScoreCalibration, false_alarms: FalseAlarms, interval_seconds: float
    ) -> "FalseAlarmGuarantee":
        chance = min(false_alarms.within(interval_seconds), 0.5)
        evaluations = 86_400 / interval_seconds
        achieved = calibration.achieved(chance)
        return cls(
            false_alarms,
            interval_seconds,
            calibration.threshold(chance),
            achieved.chance * evaluations,
            achieved.lower * evaluations,
            achieved.upper * evaluations,
        )


class ThresholdSettings(msgspec.Struct, frozen=True):
    """What thresholds are to be fitted for."""

    window: int
    false_alarms: FalseAlarms
    interval_seconds: float


class _ReferenceHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    fingerprint: str
    prompt: str
    created: str
    queries: int
    calibration: ScoreCalibration | None = None
    promise: FalseAlarmGuarantee | None = None


class _FormatVersion(msgspec.Struct, frozen=True):
    format: int


class _FormatTwoHeader(_FormatVersion, frozen=True):
    """What of format 2 still holds: its calibration is of another score, and only says that there was one."""

    class Fitted(msgspec.Struct, frozen=True):
        window: Annotated[int, msgspec.Meta(ge=1, le=MOST_WINDOW)]

    class Promised(msgspec.Struct, frozen=True):
        false_alarms: FalseAlarms
        interval_seconds: Annotated[float, msgspec.Meta(gt=0)]

    fingerprint: str
    prompt: str
    created: str
    queries: int
    calibration: Fitted | None
    promise: Promised | None

    @property
    def terms(self) -> ThresholdSettings | None:
        if self.calibration is None or self.promise is None:
            return None
        return ThresholdSettings(self.calibration.window, self.promise.false_alarms, self.promise.interval_seconds)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DriftReference:
    """Query vectors as they were when the model was judged good.

    vectors (n, d) float32, finite, of the checkpoint's own precision; fingerprint of the bundle that encoded them;
    prompt they were encoded with; created, a date the caller may pass (nothing reads the clock here: the same input
    gives the same bytes); sessions (n,) int64, negative for none, and times (n,) float64 Unix seconds, where known;
    queries, how many they were drawn from; offsets, how far each variant moves the mean (d,) float32; calibration and
    promise, unless there are too few rows to learn from; terms, where these two are still to be fitted.
    """

    vectors: Vectors
    fingerprint: str
    prompt: str = ""
    created: str = ""
    sessions: Ids | None = None
    times: Times | None = None
    queries: int = 0
    offsets: Mapping[str, Vectors] = field(default_factory=dict)
    calibration: ScoreCalibration | None = None
    promise: FalseAlarmGuarantee | None = None
    terms: ThresholdSettings | None = None

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.size:
            raise InvalidVectors(f"a reference is (n, d) float32 with n, d >= 1, not {vectors.shape} {vectors.dtype}")
        if not np.isfinite(vectors).all():
            raise InvalidVectors("the reference vectors hold NaN or infinity: check the engine that encoded them")
        for name, column in (("sessions", self.sessions), ("times", self.times)):
            if column is not None and column.shape != vectors.shape[:1]:
                raise InvalidVectors(f"{name} of shape {column.shape} do not fit {len(vectors)} vectors")
        if self.sessions is not None and self.sessions.dtype.kind != "i":
            raise InvalidVectors(f"sessions are whole numbers, not {self.sessions.dtype}")
        if self.times is not None and not np.isfinite(self.times).all():
            raise InvalidVectors("times hold NaN or infinity: give Unix seconds")
        for name, offset in self.offsets.items():
            if offset.shape != vectors.shape[1:]:
                raise InvalidVectors(f"the offset of {name} has shape {offset.shape}, not ({vectors.shape[1]},)")

    @classmethod
    def fit(
        cls,
        vectors: Vectors,
        fingerprint: str,
        *,
        prompt: str = "",
        created: str = "",
        sessions: Ids | None = None,
        times: Times | None = None,
        variants: Mapping[str, Vectors] | None = None,
        window: int = WINDOW,
        false_alarms: FalseAlarms = DEFAULT,
        interval_seconds: float = INTERVAL_SECONDS,
        maximum: int = MAXIMUM,
        seed: int = 0,
    ) -> "DriftReference":
        """Keep at most maximum distinct rows of vectors (n, d), whole sessions drawn with seed, in order of appearance.

        Repeats are dropped: they would count as independent evidence in the test, and are not. variants holds the
        vectors (n, d) of the same queries as each variant of the bundle encodes them, the reference's own included: the
        shift of their mean is kept, so that a change of variant does not count as drift.
        """
        if maximum < 2:
            raise InvalidSetting("maximum", maximum, "at least 2")
        if vectors.ndim != 2 or not vectors.size:
            raise InvalidVectors(f"cannot fit a reference on vectors of shape {vectors.shape}: give (n, d), n >= 1")
        if vectors.dtype.kind != "f":
            raise InvalidVectors(f"vectors are {vectors.dtype}, which are codes: give the floats they were made of")
        vectors = np.asarray(vectors, dtype=np.float32)
        cls(vectors=vectors, fingerprint=fingerprint, sessions=sessions, times=times)
        rows = _sample(vectors, sessions, maximum, seed)
        reference = cls(
            vectors=vectors[rows],
            fingerprint=fingerprint,
            prompt=prompt,
            created=created,
            sessions=None if sessions is None else sessions[rows],
            times=None if times is None else times[rows],
            queries=len(vectors),
            offsets={name: _offset(vectors, moved, name) for name, moved in (variants or {}).items()},
            terms=ThresholdSettings(window, false_alarms, interval_seconds),
        )
        return reference.calibrated(seed)

    def calibrated(self, seed: int = 0) -> "DriftReference":
        """Fit the thresholds that terms ask for: seconds of work. There are none where too few sessions tell enough."""
        if self.terms is None:
            return self
        calibration = promise = None
        if self._sessions() >= LEAST_SESSIONS:
            calibration = self.calibration_for(self.terms.window, seed)
            promise = FalseAlarmGuarantee.of(calibration, self.terms.false_alarms, self.terms.interval_seconds)
        return replace(self, calibration=calibration, promise=promise, terms=None)

    def calibration_for(self, window: int, seed: int = 0) -> ScoreCalibration:
        """Its own if it holds for windows of so many queries, or a new one."""
        known = self.calibration
        if known is not None and known.window == window:
            return known
        return calibrate(self.vectors, self.sessions, self.times, window=window, queries=self._drawn(), seed=seed)

    def features_for(self, window: int) -> ShiftFeatures:
        """Fit what such a window is mapped by."""
        return features(self.vectors, self.sessions, self.times, window=window, queries=self._drawn())

    def _drawn(self) -> int:
        return max(self.queries, len(self.vectors))

    def _sessions(self) -> int:
        """How many there are; of rows that are all alike only one counts."""
        return len(np.unique(index_of(self.sessions, len(self.vectors))[distinct_rows(self.vectors)]))

    @property
    def is_unit(self) -> bool:
        """Whether all rows have length 1, as those of a model that normalises have."""
        return not _off_unit(self.vectors, LENGTH_TOLERANCE).any()

    def require(self, fingerprint: str) -> None:
        """Raise ReferenceMismatch unless the reference belongs to the model with this fingerprint."""
        if self.fingerprint != fingerprint:
            raise ReferenceMismatch(
                f"the drift reference belongs to model {self.fingerprint[:12]}, this one is {fingerprint[:12]}: "
                "fit a reference on this model's query vectors"
            )

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        path.write_bytes(self.content())

    def content(self) -> bytes:
        """As safetensors. All metadata is one JSON value: safetensors writes several keys in random order."""
        fitted = self.calibrated()
        header = _ReferenceHeader(
            FORMAT, self.fingerprint, self.prompt, self.created, self.queries, fitted.calibration, fitted.promise
        )
        columns = {"vectors": self.vectors, "sessions": self.sessions, "times": self.times}
        columns |= {_VARIANT + name: offset for name, offset in sorted(self.offsets.items())}
        tensors = {name: np.ascontiguousarray(column) for name, column in columns.items() if column is not None}
        return bytes(save(tensors, {KEY: msgspec.json.encode(header).decode()}))

    @classmethod
    def load(cls, path: Path) -> "DriftReference":
        """Read what save wrote. Raises ReferenceUnreadable for anything else.

        A reference of format 2 holds all that is needed to fit its thresholds anew, which `calibrated` does.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header, terms = _header((file.metadata() or {})[KEY], path)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
            return cls(
                vectors=tensors["vectors"],
                fingerprint=header.fingerprint,
                prompt=header.prompt,
                created=header.created,
                sessions=tensors.get("sessions"),
                times=tensors.get("times"),
                queries=header.queries,
                offsets={n.removeprefix(_VARIANT): t for n, t in tensors.items() if n.startswith(_VARIANT)},
                calibration=header.calibration,
                promise=header.promise,
                terms=terms,
            )
        except OSError as error:
            raise ReferenceUnreadable(f"cannot open the drift reference {path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, msgspec.MsgspecError, InvalidVectors) as error:
            raise ReferenceUnreadable(f"{path} is not a drift reference ({error}): fit it again") from error


def _header(text: str, path: Path) -> tuple[_ReferenceHeader, ThresholdSettings | None]:
    found = msgspec.json.decode(text, type=_FormatVersion).format
    if found == SCORE_BEFORE:
        before = msgspec.json.decode(text, type=_FormatTwoHeader)
        return _ReferenceHeader(FORMAT, before.fingerprint, before.prompt, before.created, before.queries), before.terms
    if found != FORMAT:
        raise ReferenceUnreadable(
            f"{path} has format {found}, this version reads {FORMAT}: fit it again, with `embedship reference`"
        )
    return msgspec.json.decode(text, type=_ReferenceHeader), None


def _sample(vectors: Vectors, sessions: Ids | None, maximum: int, seed: int) -> NDArray[np.intp]:
    """Draw whole sessions until maximum distinct rows are there; the last one may be cut."""
    random = np.random.default_rng(seed)
    index = index_of(sessions, len(vectors))
    place = random.permutation(int(index.max()) + 1)[index]
    order = np.argsort(place, kind="stable")[: 4 * maximum]  # repeats are searched among these only
    candidates = np.sort(order)
    rows = candidates[distinct_rows(vectors[candidates])]
    kept = rows[np.argsort(place[rows], kind="stable")[:maximum]]
    return np.sort(kept)


def require_comparable(
    vectors: NDArray[np.floating[Any]], dimensions: int, unit: bool, tolerance: float = LENGTH_TOLERANCE
) -> None:
    """Raise InvalidVectors unless vectors (n, d) are finite floats of so many dimensions, of length 1 where `unit`.

    Codes and scaled vectors point where no vector of the model does: every test would call that drift.
    """
    if vectors.dtype.kind != "f":
        raise InvalidVectors(f"vectors are {vectors.dtype}, which are codes: give the floats they were made of")
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise InvalidVectors(f"vectors of shape {vectors.shape} do not fit a reference of {dimensions} dimensions")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InvalidVectors(f"query vectors hold NaN or infinity, first in row {row}: check the engine")
    if unit and (off := _off_unit(vectors, tolerance)).any():
        row = int(np.argmax(off))
        raise InvalidVectors(
            f"the vectors of the reference have length 1, and row {row} has length "
            f"{float(np.linalg.norm(vectors[row])):.4g}: divide each row by its length"
        )


def _off_unit(vectors: NDArray[np.floating[Any]], tolerance: float) -> NDArray[np.bool_]:
    """(n,) Whether the length of each row is not 1."""
    lengths = np.linalg.norm(vectors.astype(np.float32, copy=False), axis=1)
    off: NDArray[np.bool_] = np.abs(lengths - 1) > tolerance
    return off


def _offset(vectors: Vectors, moved: Vectors, name: str) -> Vectors:
    if moved.shape != vectors.shape:
        raise InvalidVectors(f"{name} has vectors of shape {moved.shape}, the reference {vectors.shape}")
    if not np.isfinite(moved).all():
        raise InvalidVectors(f"{name} has vectors that hold NaN or infinity: check the engine")
    return np.asarray((moved - vectors).mean(axis=0), dtype=np.float32)
