"""Report of an audit: the checks, the faults that were found, and remarks."""

from __future__ import annotations

from enum import StrEnum

import msgspec
import numpy as np
import numpy.typing as npt

from embedship.bundle import Precision


class FaultKind(StrEnum):
    """What is wrong with a server."""

    BATCH = "batch"  # a vector depends on the other texts of a request, or on other requests
    DIMENSIONS = "dimensions"
    ENCODING = "encoding"  # base64 and numbers differ
    FAILED = "failed"  # an error, or a response that is not a list of vectors
    MODEL = "model"
    NORMALISATION = "normalisation"
    ORDER = "order"
    POOLING = "pooling"
    PRECISION = "precision"
    PROMPT = "prompt"
    REJECTED = "rejected"
    SHAPE = "shape"
    TEXT = "text"
    TOKENS = "tokens"  # special tokens
    TRUNCATION = "truncation"


class ServerFault(msgspec.Struct, frozen=True):
    """One fault: a message, and the measurements that prove it."""

    kind: FaultKind
    message: str
    evidence: tuple[str, ...] = ()


class CheckSummary(msgspec.Struct, frozen=True):
    """One check: number of texts, number of wrong ones, and cosines to the vectors in `against`.

    `against`: what the vectors were compared with. A cosine is None if no vector could be compared.
    """

    name: str
    against: str
    texts: int
    wrong: int
    rejected: int
    cosine_minimum: float | None
    cosine_mean: float | None

    @classmethod
    def from_cosines(
        cls, name: str, against: str, texts: int, cosines: npt.NDArray[np.float64], *, wrong: int, rejected: int = 0
    ) -> CheckSummary:
        """Return the summary of a check with these cosines, (n,). NaN cosines are not part of minimum and mean."""
        finite = cosines[np.isfinite(cosines)]
        least, mean = (float(finite.min()), float(finite.mean())) if len(finite) else (None, None)
        rounded = [None if value is None else round(value, 6) for value in (least, mean)]
        return cls(name, against, texts, wrong, rejected, rounded[0], rounded[1])


class AuditReport(msgspec.Struct, frozen=True):
    """Result of an audit. `precision`: the highest one whose floor most ordinary texts meet; None if none."""

    url: str
    api: str
    model: str  # as named in requests
    reference: str  # as named in the bundle
    fingerprint: str
    passed: bool
    precision: Precision | None
    required: Precision
    dimension: int
    checks: tuple[CheckSummary, ...]
    faults: tuple[ServerFault, ...]
    remarks: tuple[str, ...]
    requests: int
    seconds: float
