"""What detectors are shown: seeded windows of query vectors, with and without drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2

from embedship import Bundle, Encoder, stdlib_docs

DIMENSIONS, LATENT = 384, 26  # 26 effective dimensions: what a fine-tuned model has on one domain
ALIKE = 0.8  # correlation within a session
TOPICS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """reference (n, d), windows (k, m, d) float32, and the session of each of their rows, (n,) and (m,)."""

    reference: np.ndarray
    windows: np.ndarray
    reference_sessions: np.ndarray
    sessions: np.ndarray
    verdicts: int  # of so many first windows a detector's own verdict counts, too: they are without drift


class Synthetic:
    """Unit rows on few effective dimensions, in sessions of related queries; nothing ever drifts."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._mixing = self._random.normal(size=(LATENT, DIMENSIONS)).astype(np.float32)

    def scene(self, n: int, m: int, count: int, size: int) -> Scene:
        windows = np.stack([self._rows(m, size) for _ in range(count)])
        sessions = [np.arange(rows) // size for rows in (n, m)]
        return Scene(self._rows(n, size), windows, *sessions, count)

    def _rows(self, n: int, size: int) -> np.ndarray:
        topics = np.repeat(self._random.normal(size=(-(-n // size), LATENT)), size, axis=0)[:n]
        alike = ALIKE if size > 1 else 0.0
        own = self._random.normal(size=(n, LATENT))
        latent = np.sqrt(alike) * topics + np.sqrt(1 - alike) * own + 1.0
        rows = latent @ self._mixing + 0.1 * self._random.normal(size=(n, DIMENSIONS))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Documents:
    """Real vectors: the standard library's documentation; of eight topics in it, the one of middling size is new."""

    @classmethod
    def several(cls, bundle: Path, count: int) -> list[Documents]:
        """One new topic each: with a single one, its luck would speak for all."""
        with Encoder.open(Bundle.open(bundle)) as encoder:
            vectors = encoder.encode([entry.summary for entry in stdlib_docs.entries()])
        return [cls(vectors, seed) for seed in range(1, count + 1)]

    def __init__(self, vectors: np.ndarray, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        topics = kmeans2(vectors, TOPICS, seed=seed, minit="++")[1]
        new = topics == np.argsort(np.bincount(topics))[TOPICS // 2]
        known = self._random.permutation(vectors[~new])
        self.reference, self._rest, self._new = known[: len(known) // 2], known[len(known) // 2 :], vectors[new]

    def scene(self, windows: np.ndarray, *, verdicts: int) -> Scene:
        sessions = (np.arange(len(rows)) for rows in (self.reference, windows[0]))
        return Scene(self.reference, windows, *sessions, verdicts)

    def windows(self, m: int, count: int, share: float) -> np.ndarray:
        """Windows of m queries (count, m, d), this share of them of the new topic; fewer if there are not so many."""
        return np.stack([self._window(m, round(share * m)) for _ in range(count)])

    def onset(self, m: int, count: int, share: float, step: int) -> np.ndarray:
        """Windows as the new topic moves in (count, m // step, m, d): after each step more queries are of its time."""
        return np.stack(
            [[self._window(m, round(share * after)) for after in range(step, m + 1, step)] for _ in range(count)]
        )

    def _window(self, m: int, fresh: int) -> np.ndarray:
        known = self._rest[self._random.permutation(len(self._rest))[: m - fresh]]
        return np.concatenate([known, self._new[self._random.permutation(len(self._new))[:fresh]]])
