"""How hard a search looks: tuned when the index is built, and each request may ask for another within limits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta

from embedship.bundle import ManifestRecord
from embedship.errors import UsageError

_OVERSAMPLE, _NPROBE, _EF_SEARCH = (1, 200), (1, 4096), (1, 4096)
LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"oversample": _OVERSAMPLE, "nprobe": _NPROBE, "ef_search": _EF_SEARCH}
)

# What an oversample is counted for: a search for one hit is given as many candidates as one for ten.
LEAST_HITS = 10


class SearchEffort(ManifestRecord, frozen=True):
    """Each knob turns recall into time. In an index: the knobs it has; in a request: those to turn, None for the rest.

    Raises UsageError for a value outside LIMITS.
    """

    # Candidates ranked again for each hit; below ten hits as for ten.
    oversample: Annotated[int, Meta(ge=_OVERSAMPLE[0], le=_OVERSAMPLE[1])] | None = None
    # Lists of an inverted file that are scanned; more than it has are all.
    nprobe: Annotated[int, Meta(ge=_NPROBE[0], le=_NPROBE[1])] | None = None
    # Nodes of a graph that are kept open; never fewer than the candidates wanted.
    ef_search: Annotated[int, Meta(ge=_EF_SEARCH[0], le=_EF_SEARCH[1])] | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"effort {name}={value} lies outside {low}..{high}")

    def candidates(self, k: int) -> int:
        """How many the first stage gives the second to find k."""
        assert self.oversample is not None, "an index with a second stage has this knob"
        return self.oversample * max(k, LEAST_HITS)

    def overridden_by(self, asked: SearchEffort | None) -> SearchEffort:
        """This effort of an index, with the knobs turned that a request names.

        Raises UsageError for a knob that the index does not have: it would change nothing, in silence.
        """
        if asked is None:
            return self
        for name in asked.named:
            if name not in self.named:
                raise UsageError(f"effort {name}: this index has no such knob; it has: {self.knobs}")
        return msgspec.structs.replace(self, **{name: getattr(asked, name) for name in asked.named})

    @property
    def named(self) -> list[str]:
        return [name for name in LIMITS if getattr(self, name) is not None]

    @property
    def knobs(self) -> str:
        return ", ".join(self.named) or "none, it is exact"

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.named) or "none"
