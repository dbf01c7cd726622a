"""The drift reference: a bounded sample of query vectors, bound to one model by its fingerprint."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedship.monitor.errors import InvalidSetting, InvalidVectors, ReferenceMismatch, ReferenceUnreadable
from embedship.monitor.statistics import distinct

FORMAT = 1
KEY = "embedship.reference"
MAXIMUM = 2_000


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    fingerprint: str
    prompt: str
    created: str


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Query vectors as they were when the model was judged good.

    vectors (n, d) float32, finite; fingerprint of the bundle that encoded them; prompt they were encoded with;
    created, a date the caller may pass (nothing reads the clock here: the same input gives the same bytes).
    """

    vectors: NDArray[np.float32]
    fingerprint: str
    prompt: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.size:
            raise InvalidVectors(f"a reference is (n, d) float32 with n, d >= 1, not {vectors.shape} {vectors.dtype}")
        if not np.isfinite(vectors).all():
            raise InvalidVectors("the reference vectors hold NaN or infinity: check the engine that encoded them")

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float32],
        fingerprint: str,
        *,
        prompt: str = "",
        created: str = "",
        maximum: int = MAXIMUM,
        seed: int = 0,
    ) -> "Reference":
        """Keep at most maximum distinct rows of vectors (n, d), drawn with seed, in their order of appearance.

        Repeats are dropped: they would count as independent evidence in the test, and are not.
        """
        if maximum < 2:
            raise InvalidSetting("maximum", maximum, "at least 2")
        if vectors.ndim != 2 or not vectors.size:
            raise InvalidVectors(f"cannot fit a reference on vectors of shape {vectors.shape}: give (n, d), n >= 1")
        rows = distinct(np.asarray(vectors, dtype=np.float32))
        if len(rows) > maximum:
            rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), maximum, replace=False))]
        return cls(rows, fingerprint, prompt, created)

    def require(self, fingerprint: str) -> None:
        """Raise ReferenceMismatch unless the reference belongs to the model with this fingerprint."""
        if self.fingerprint != fingerprint:
            raise ReferenceMismatch(
                f"the drift reference belongs to model {self.fingerprint[:12]}, this one is {fingerprint[:12]}: "
                "fit a reference on this model's query vectors"
            )

    def save(self, path: Path) -> None:
        """Write safetensors. All metadata is one JSON value: safetensors writes several keys in random order."""
        header = _Header(FORMAT, self.fingerprint, self.prompt, self.created)
        vectors = np.ascontiguousarray(self.vectors)
        path.write_bytes(save({"vectors": vectors}, {KEY: msgspec.json.encode(header).decode()}))

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what save wrote. Raises ReferenceUnreadable for anything else."""
        try:
            with safe_open(path, framework="numpy") as file:
                header = msgspec.json.decode((file.metadata() or {})[KEY], type=_Header)
                vectors = file.get_tensor("vectors")
            if header.format != FORMAT:
                raise ReferenceUnreadable(
                    f"{path} has format {header.format}, this version reads {FORMAT}: fit it again"
                )
            return cls(vectors, header.fingerprint, header.prompt, header.created)
        except OSError as error:
            raise ReferenceUnreadable(f"cannot open the drift reference {path}: {error}") from error
        except (SafetensorError, KeyError, msgspec.MsgspecError, InvalidVectors) as error:
            raise ReferenceUnreadable(f"{path} is not a drift reference ({error}): fit it again") from error
