"""Recall, speed and memory of every index kind and of its peers, on 229,000 real texts with held-out queries.

All use the same vectors (float32 rows with float16 values, so that the exact result is the same for all), build and
search on one core, and run in alternating rounds. `--only medquad` uses the smaller reference set; `--quick` is a smoke
test of all parts. OPENBLAS_CORETYPE comes from the environment, is the same for all, and is saved with the result.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

# Set before numpy is imported. Peers inherit it.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})

import bundled  # noqa: E402
import curves  # noqa: E402
import numpy as np  # noqa: E402
import record  # noqa: E402
import search_goals  # noqa: E402
import search_texts  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from peer import Peer, python_of  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from search_texts import Embedded  # noqa: E402

from embedship.bundle import Bundle  # noqa: E402
from embedship.encoder import Encoder  # noqa: E402
from embedship.serve.index import IndexKind, kinds, recipe  # noqa: E402
from embedship.serve.index.effort import SearchEffort  # noqa: E402
from embedship.serve.index.exact_vectors import ExactVectors  # noqa: E402
from embedship.serve.index.manifest import STAGE, QuantisationParams  # noqa: E402
from embedship.serve.index.recipe import RerankStore  # noqa: E402
from embedship.serve.indexing import goals  # noqa: E402

WORK = Path(__file__).parents[1] / ".bench"
K = 10
SINGLES = 100
SHARES = (0.5, 0.1, 0.01, 0.001)
QUICK_DOCUMENTS, QUICK_QUERIES = 4000, 100
# Backend -> its effort values, and whether it runs in this interpreter's environment or in the peers' venv.
PEERS: dict[str, tuple[tuple[int | None, ...], bool]] = {
    "faiss-flat": ((None,), False),
    "faiss-hnsw": ((16, 32, 64, 128, 256), False),
    "hnswlib": ((16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024), False),
    "usearch-i8": ((16, 32, 64, 128, 256), False),
    "semantic-search": ((None,), True),
    "semantic-search-faiss": ((-1, -20, 1, 20), True),
}
OURS = tuple(kind for kind in IndexKind if kind is not IndexKind.FACTORY)

console = Console(width=130)


class Setting(NamedTuple):
    """One point of a curve."""

    name: str
    effort: str
    ours: bool


class Contender:
    """An index to compare, with several efforts. `ask` returns seconds and the (n, 10) rows."""

    name: str
    ours: bool
    hot_bytes: float
    build_seconds: float
    efforts: Sequence[Any]

    def ask(self, effort: Any) -> tuple[float, NDArray[np.int64]]:
        raise NotImplementedError

    def single(self, effort: Any) -> float:
        """Return the seconds of a single query."""
        raise NotImplementedError


class Ours(Contender):
    ours = True

    def __init__(
        self, kind: IndexKind, folder: Path, truth: ExactVectors, codes: Any, queries: NDArray[np.float32]
    ) -> None:
        self.name = f"embedship {kind}"
        # Binary codes are re-ranked by int8, as is common; the other kinds by the exact vectors.
        store = RerankStore.INT8 if kind is IndexKind.BINARY else RerankStore.FLOAT16
        planned = recipe.make_recipe(kind, truth.size, truth.dimension, store)
        packing = QuantisationParams.from_recipe(planned, codes, truth.dimension)
        began = time.perf_counter()
        self.index = kinds.write(folder, truth, planned, packing, kinds.default(planned))
        self.build_seconds = time.perf_counter() - began
        self.hot_bytes = (folder / STAGE).stat().st_size / truth.size
        self.efforts = goals.efforts(planned, truth.size)
        self._queries = queries

    def ask(self, effort: SearchEffort) -> tuple[float, NDArray[np.int64]]:
        began = time.perf_counter()
        rows = self.index.search(self._queries, K, effort=effort).rows
        return time.perf_counter() - began, rows

    def single(self, effort: SearchEffort) -> float:
        began = time.perf_counter()
        for place in range(SINGLES):
            self.index.search(self._queries[place : place + 1], K, effort=effort)
        return (time.perf_counter() - began) / SINGLES


class Theirs(Contender):
    ours = False

    def __init__(self, backend: str, files: tuple[Path, Path], rows: int) -> None:
        self.name = backend
        self.efforts, own = PEERS[backend]
        python = Path(sys.executable) if own else python_of("peer_search")
        self._peer = Peer("peer_search", backend, *files, python=python)
        self.versions = self._peer.versions
        built = self._peer.ask(do="build")
        self.build_seconds, self.hot_bytes = built["seconds"], built["bytes"] / rows
        self._rows = files[0].with_name(f"rows-{backend}.npy")

    def ask(self, effort: Any) -> tuple[float, NDArray[np.int64]]:
        seconds = self._peer.ask(do="search", effort=effort, save=str(self._rows))["seconds"]
        return seconds, np.load(self._rows)

    def single(self, effort: Any) -> float:
        return float(self._peer.ask(do="single", effort=effort, queries=SINGLES)["seconds"]) / SINGLES

    def close(self) -> None:
        self._peer.close()


def main() -> None:
    arguments = _arguments()
    WORK.mkdir(exist_ok=True)
    bundle = Bundle.open(arguments.bundle or bundled.made(WORK))
    names = arguments.only or search_texts.available()
    with Encoder.open(bundle) as encoder:
        sets = [search_texts.embedded(name, encoder, WORK) for name in names]
    data = Embedded(np.concatenate([s.documents for s in sets]), np.concatenate([s.queries for s in sets]))
    if arguments.quick:
        data = Embedded(data.documents[:: len(data.documents) // QUICK_DOCUMENTS], data.queries[:QUICK_QUERIES])
    console.print(f"{len(data.documents):,} documents of {', '.join(names)}, {len(data.queries):,} held-out queries")
    with TemporaryDirectory(dir=WORK) as folder:
        result = _run(Path(folder), data, bundle, 1 if arguments.quick else arguments.rounds)
    told = {"benchmark": "search", "quick": arguments.quick, "texts": names, **result}
    _show(told)
    if not arguments.quick:
        curves.write(record.RESULTS / f"search-{'-'.join(names) if arguments.only else 'all'}.svg", told["curves"])
    record.keep("search", record.circumstances() | told)


def _run(folder: Path, data: Embedded, bundle: Bundle, rounds: int) -> dict[str, Any]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # peers inherit it; our builds use every available core
    truth = ExactVectors.write(folder, [data.documents], data.documents.shape)
    exact = truth.search(data.queries, K).rows
    files = folder / "documents.npy", folder / "queries.npy"
    for path, rows in zip(files, data, strict=True):
        np.save(path, rows.astype(np.float16))
    contenders: list[Contender] = []
    for kind in OURS:
        (folder / kind).mkdir()
        contenders.append(Ours(kind, folder / kind, truth, bundle.manifest.codes, data.queries))
        console.print(f"built {contenders[-1].name} in {contenders[-1].build_seconds:.1f} s")
    for backend in PEERS:
        contenders.append(Theirs(backend, files, truth.size))
        console.print(f"built {backend} in {contenders[-1].build_seconds:.1f} s")
    points, singles = _rounds(contenders, exact, rounds)
    ranking = _rescoring(contenders, data, truth)
    filtered = {each.name: _filters(each, data, truth) for each in contenders if isinstance(each, Ours)}
    for each in contenders:
        if isinstance(each, Theirs):
            each.close()
    found = _curves(contenders, points, len(data.queries))
    return {
        "documents": truth.size,
        "queries": len(data.queries),
        "threads": 1,
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", "unset"),
        "peer_versions": {k: v for c in contenders if isinstance(c, Theirs) for k, v in c.versions.items()},
        "curves": found,
        "single_seconds": {name: record.spread(values) for name, values in singles.items()},
        "rescoring": ranking,
        "filters": filtered,
        "goals": search_goals.judge_goals(found, singles, ranking, filtered),
    }


def _rounds(
    contenders: Sequence[Contender], exact: NDArray[np.int64], rounds: int
) -> tuple[dict[Setting, tuple[float, list[float]]], dict[str, list[float]]]:
    """Return setting -> (recall, seconds per round), and the single-query seconds of the exact settings."""
    points: dict[Setting, tuple[float, list[float]]] = {}
    singles: dict[str, list[float]] = {}
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds}")
        for each in contenders:
            for effort in each.efforts:
                seconds, rows = each.ask(effort)
                point = points.setdefault(Setting(each.name, str(effort), each.ours), (_recall(rows, exact), []))
                point[1].append(seconds)
            if each.name in ("embedship flat", "faiss-flat"):
                singles.setdefault(each.name, []).append(each.single(each.efforts[0]))
    return points, singles


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    return float((found[:, :, None] == exact[:, None, :]).any(axis=1).mean())


def _curves(
    contenders: Sequence[Contender], points: dict[Setting, tuple[float, list[float]]], queries: int
) -> list[dict[str, Any]]:
    of = {each.name: each for each in contenders}
    return [
        {
            "name": setting.name,
            "ours": setting.ours,
            "effort": setting.effort,
            "recall": recall,
            "queries_per_second": record.spread([queries / each for each in seconds]),
            "hot_bytes": round(of[setting.name].hot_bytes, 1),
            "build_seconds": round(of[setting.name].build_seconds, 2),
        }
        for setting, (recall, seconds) in points.items()
    ]


def _rescoring(contenders: Sequence[Contender], data: Embedded, truth: ExactVectors) -> dict[str, float]:
    """Return the seconds to re-rank the same number of candidates for all queries, 20 per each of ten hits.

    The peer's figure is the difference between a search with rescoring and one without, with equal candidates.
    """
    theirs = next(each for each in contenders if each.name == "semantic-search-faiss")
    ours = next(each for each in contenders if each.name == f"embedship {IndexKind.BINARY}")
    assert isinstance(ours, Ours)
    rows = np.random.default_rng(0).integers(0, truth.size, (len(data.queries), 20 * K))
    with_it, without = theirs.ask(20)[0], theirs.ask(-20)[0]
    began = time.perf_counter()
    for start in range(0, len(rows), 100):
        ours.index.rank(data.queries[start : start + 100], rows[start : start + 100])  # type: ignore[attr-defined]
    return {"theirs": with_it - without, "ours": time.perf_counter() - began}


def _filters(ours: Ours, data: Embedded, truth: ExactVectors) -> dict[str, float]:
    """Return recall@10 by the share of rows that a filter allows, at the highest effort."""
    queries, random = data.queries[:200], np.random.default_rng(5)
    found = {}
    for share in SHARES:
        allowed = random.random(truth.size) < share
        exact = truth.search(queries, K, allowed).rows
        rows = ours.index.search(queries, K, allowed, ours.efforts[-1]).rows
        found[f"{share:g}"] = float(((rows[:, :, None] == exact[:, None, :]) & (exact >= 0)[:, None, :]).sum())
        found[f"{share:g}"] /= max(1, int((exact >= 0).sum()))
    return found


def _show(told: dict[str, Any]) -> None:
    table = Table(title=f"recall@10 over {told['documents']:,} documents, one thread")
    for heading in ("", "effort", "recall@10", "queries/s", "spread", "bytes/vector", "build s"):
        table.add_column(heading, justify="left" if heading in ("", "effort") else "right")
    for row in told["curves"]:
        rate = row["queries_per_second"]
        spread = f"{rate['lowest']:,.0f}..{rate['highest']:,.0f}"
        table.add_row(
            row["name"], row["effort"], f"{row['recall']:.4f}", f"{rate['median']:,.0f}", spread,
            f"{row['hot_bytes']:,.1f}", f"{row['build_seconds']:.1f}",
        )  # fmt: skip
    console.print(table)
    for goal in told["goals"]:
        console.print(("met   " if goal["met"] else "MISSED"), goal["goal"], "-", goal["found"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="Default: all-MiniLM-L6-v2, exported into .bench.")
    parser.add_argument("--only", action="append", choices=tuple(search_texts.SOURCES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
