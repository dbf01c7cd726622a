"""Search effort: settings that trade time for recall. A build tunes them; a request may override them within limits."""

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

# A search for fewer hits than this gets as many candidates as a search for this many hits.
LEAST_HITS = 10


class SearchEffort(ManifestRecord, frozen=True):
    """Effort settings. In an index: the settings it has. In a request: the settings to override; None for the others.

    Raises UsageError for a value outside LIMITS.
    """

    # Candidates that are re-ranked per hit; a search for less than ten hits gets those for ten.
    oversample: Annotated[int, Meta(ge=_OVERSAMPLE[0], le=_OVERSAMPLE[1])] | None = None
    # Lists of an inverted file to scan; a value above the number of lists scans all of them.
    nprobe: Annotated[int, Meta(ge=_NPROBE[0], le=_NPROBE[1])] | None = None
    # Size of the candidate list while a graph is searched; at least the number of wanted candidates is used.
    ef_search: Annotated[int, Meta(ge=_EF_SEARCH[0], le=_EF_SEARCH[1])] | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"effort {name}={value} is outside the allowed range {low}..{high}")

    def candidates(self, k: int) -> int:
        """Return how many candidates the first stage passes to the second to find k hits."""
        assert self.oversample is not None, "an index with two stages has this setting"
        return self.oversample * max(k, LEAST_HITS)

    def overridden_by(self, requested: SearchEffort | None) -> SearchEffort:
        """Return this effort of an index with the values that a request sets.

        Raises UsageError for a setting that the index does not have, because it would silently have no effect.
        """
        if requested is None:
            return self
        for name in requested.named:
            if name not in self.named:
                raise UsageError(f"effort {name}: this index does not have this setting; it has: {self.knobs}")
        return msgspec.structs.replace(self, **{name: getattr(requested, name) for name in requested.named})

    @property
    def named(self) -> list[str]:
        """The names of the settings that have a value."""
        return [name for name in LIMITS if getattr(self, name) is not None]

    @property
    def knobs(self) -> str:
        """The names of the settings, for messages."""
        return ", ".join(self.named) or "none, because it is exact"

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.named) or "none"
