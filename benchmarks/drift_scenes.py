"""Scenarios for drift detectors: seeded windows of query vectors, with and without drift."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2

from embedship import Bundle, Encoder, stdlib_docs

DIMENSIONS, LATENT = 384, 26  # 26 effective dimensions, as measured for a fine-tuned model on one domain
ALIKE = 0.8  # correlation within a session
TOPICS = 8
TEXTS = 2_374  # per source: the size of the smallest one
PYTHON, SCIENCE, MEDICAL = "Python", "NumPy and SciPy", "medical"
MEDQUAD = Path(__file__).parents[2] / "shared" / "data" / "medquad" / "queries_all.jsonl"


def sources() -> dict[str, list[str]]:
    """Return short texts by source. The medical questions are used if they are available."""
    found = {PYTHON: [entry.summary for entry in stdlib_docs.entries()], SCIENCE: _summaries("numpy", "scipy")}
    if MEDQUAD.is_file():
        found[MEDICAL] = [json.loads(line)["text"] for line in MEDQUAD.read_text().splitlines()]
    return found


def _summaries(*packages: str) -> list[str]:
    """Return the unique first docstring lines of these packages' public objects, in a stable order."""
    found: dict[str, None] = {}
    for package in packages:
        spec = find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or []
        for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
            if not any(part.startswith(("_", "test")) for part in path.parent.parts[-2:]):
                found |= dict.fromkeys(_first_lines(path))
    return list(found)


def _first_lines(path: Path) -> list[str]:
    documented = (ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, documented))
    docs = (ast.get_docstring(node) or "" for node in nodes if not node.name.startswith("_"))
    return [line for line in (doc.split("\n")[0] for doc in docs) if len(line) > 20 and "(" not in line]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Float32 reference (n, d) and windows (k, m, d), and the session of each row, (n,) and (m,)."""

    reference: np.ndarray
    windows: np.ndarray
    reference_sessions: np.ndarray
    sessions: np.ndarray
    verdicts: int  # number of first windows, without drift, for which the detector's own decision also counts


class Synthetic:
    """Synthetic unit vectors with few effective dimensions, in sessions of related queries, without drift."""

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
    """Real vectors with eight topics: the one of median size is new, and the largest other one may fade."""

    @classmethod
    def several(cls, bundle: Path, topics: int) -> list[Documents]:
        """Return scenarios with several new topics per source, because a single one may be unrepresentative."""
        with Encoder.open(Bundle.open(bundle)) as encoder:
            vectors = {name: encoder.encode(texts) for name, texts in sources().items()}
        return [cls(name, rows, seed) for name, rows in vectors.items() for seed in range(1, topics + 1)]

    def __init__(self, source: str, vectors: np.ndarray, seed: int) -> None:
        self.source = source
        self._random = np.random.default_rng(seed)
        vectors = vectors[self._random.permutation(len(vectors))[:TEXTS]]
        topics = kmeans2(vectors, TOPICS, seed=seed, minit="++")[1]
        sizes = np.argsort(np.bincount(topics, minlength=TOPICS))
        new = topics == sizes[TOPICS // 2]
        known = self._random.permutation(np.flatnonzero(~new))
        self.reference, self._new = vectors[known[: len(known) // 2]], vectors[new]
        rest = known[len(known) // 2 :]
        self._rest, self._fading = vectors[rest], topics[rest] == sizes[-1]

    def scene(self, windows: np.ndarray, *, verdicts: int) -> Scene:
        sessions = (np.arange(len(rows)) for rows in (self.reference, windows[0]))
        return Scene(self.reference, windows, *sessions, verdicts)

    def windows(self, m: int, count: int, share: float) -> np.ndarray:
        """Return windows (count, m, d) with this share of queries from the new topic, or less if there are too few."""
        return np.stack([self._window(m, round(share * m)) for _ in range(count)])

    def onset(self, m: int, count: int, share: float, step: int) -> np.ndarray:
        """Return windows during an onset (count, m // step, m, d): each step adds queries from after the change."""
        return np.stack(
            [[self._window(m, round(share * after)) for after in range(step, m + 1, step)] for _ in range(count)]
        )

    def _window(self, m: int, fresh: int) -> np.ndarray:
        known = self._rest[self._random.permutation(len(self._rest))[: m - fresh]]
        return np.concatenate([known, self._new[self._random.permutation(len(self._new))[:fresh]]])

    def faded(self, m: int, count: int) -> np.ndarray:
        """Return windows (count, m, d) in which the largest known topic is half as frequent."""
        weights = np.where(self._fading, 0.5, 1.0)
        weights /= weights.sum()
        rows = [self._random.choice(len(weights), m, replace=False, p=weights) for _ in range(count)]
        return self._rest[np.stack(rows)]
