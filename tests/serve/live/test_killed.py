"""kill -9 at random moments, two hundred times: what was acknowledged is there, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from embedship.serve.documents.changes import Change, DeleteDocument
from embedship.serve.documents.store import Document, Split
from embedship.serve.index import IndexKind
from embedship.serve.live.index import CompactionStep, MutableIndex

from . import writer
from .conftest import DOCUMENTS, World, cut_start, documents, scratch

KILLS = 200
KILLS_OF_CHUNKS = 25
ALL = 400  # more rows than there ever are
SECONDS = 60.0

State = dict[str, Document]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGKILL)


class Writers:
    """Writers in turn, each over the same index, each killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, index: Path, seed: int, acknowledged: int, delay: float, step: str = "") -> int:
        """Start one, let it acknowledge so many transactions and go on for `delay`, then kill it.

        Returns the number of transactions that it had acknowledged when it was dead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(index, seed, step, sep="\t", file=self._process.stdin, flush=True)
        pid, done, timer = 0, 0, threading.Timer(0, lambda: None)
        for line in self._process.stdout:
            word, _, number = line.strip().partition(" ")
            if word == "ended":  # killed, or on a busy machine through before its time
                timer.cancel()
                break
            if word == "pid":
                pid = int(number)
            if word == "done":
                done = int(number) + 1
            # Its parent may name it after the first of what it did; and to kill 0 is to kill all of us.
            if pid and done >= acknowledged > 0 and not step:
                timer = threading.Timer(delay, kill, (pid,))
                timer.start()
                acknowledged = -1
        return done


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder without a disk under it, if there is one: what was written survives kill -9 either way."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def writers(bundle: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    vectors = tmp_path_factory.mktemp("writers") / "vectors.npy"
    np.save(vectors, world.vectors)
    command = [sys.executable, "-P", writer.__file__, str(bundle), str(vectors)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def changed(state: State, changes: list[Change]) -> State:
    state = dict(state)
    for change in changes:
        if isinstance(change, DeleteDocument):
            state.pop(change.id, None)
        else:
            state[change.document.id] = change.document
    return state


@contextmanager
def reopened(index: Path, world: World) -> Iterator[MutableIndex]:
    with MutableIndex.open(index, world.bundle, writable=True) as live:
        yield live


def check(live: MutableIndex, possible: list[State], world: World) -> State:
    """It is in one of the possible states, the whole of it; returns which."""
    there = documents(live)
    assert there in possible, "an acknowledged change is lost, or a deleted document is back"
    with live.moment() as now:
        first = now.documents.rows(list(there))
        chunks = [chunk for chunks in split(live)(list(there.values())) for chunk in chunks]
        rows = [first[chunk.id] + (chunk.chunk.number if chunk.chunk else 0) for chunk in chunks]
        assert now.documents.fetch(rows) == chunks, "a document's rows follow each other"
        assert now.firsts is None or now.firsts[rows].tolist() == [first[chunk.id] for chunk in chunks]
        assert live.size[:2] == (len(there), len(rows))
        hits = now.index.search(world.vectors[[writer.text(chunk) for chunk in chunks]], ALL)
        for row, chunk, numbers, scores in zip(rows, chunks, hits.rows, hits.scores, strict=True):
            found = numbers[numbers >= 0].tolist()
            assert sorted(found) == sorted(rows), "a stale row, or one that no vector finds"
            assert scores[found.index(row)] == pytest.approx(1, abs=2e-2), "its own vector, not an old one"
            (words,) = now.words.search([(chunk.title or chunk.text).split()[-1]], ALL).rows
            assert row in words
            assert set(words[words >= 0].tolist()) <= set(rows)
        for n in {chunk.metadata["n"] for chunk in chunks}:
            expected = {row for row, chunk in zip(rows, chunks, strict=True) if chunk.metadata["n"] == n}
            assert {*np.flatnonzero(now.words.allowed({"n": n})).tolist()} == expected
    return there


def split(live: MutableIndex) -> Split:
    return writer.lines if live.manifest.chunking else lambda documents: [[document] for document in documents]


def start(world: World) -> State:
    return {f"d{n}": world.document(f"d{n}", n) for n in range(DOCUMENTS)}


def states(state: State, seed: int, done: int, world: World, cut: bool = False) -> list[State]:
    """After what was acknowledged; and after one transaction more, of which nobody knows."""
    for number in range(done):
        state = changed(state, writer.transaction(seed, number, world.vectors, cut))
    return [state, changed(state, writer.transaction(seed, done, world.vectors, cut))]


def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(writers: Writers, world: World, memory: Path) -> None:
    flat = Path(shutil.copytree(world.folders[IndexKind.FLAT], memory / "index"))
    killed(flat, start(world), KILLS, writers, world)


def test_the_same_where_documents_are_cut(writers: Writers, world: World, memory: Path, cut: Path) -> None:
    """A document has all of its chunks or none, in rows of its own."""
    killed(Path(shutil.copytree(cut, memory / "index")), cut_start(), KILLS_OF_CHUNKS, writers, world)


def killed(index: Path, state: State, kills: int, writers: Writers, world: World) -> None:
    chance, total = random.Random(1), 0
    with reopened(index, world) as live:
        cut = live.manifest.chunking is not None
    for kill in range(kills):
        # At a random moment of up to two compactions, or of a restart that has only begun.
        acknowledged, delay = chance.randrange(1, 25), chance.random() * 0.02
        done = writers.run(index, kill, acknowledged, delay)
        total += done
        with reopened(index, world) as live:
            state = check(live, states(state, kill, done, world, cut), world)
    assert total > kills
    with reopened(index, world) as live:
        live.compact()
        equal_to_scratch(live, state, world, index, index.parent / "anew")
        assert [path.name for path in live.folder.glob("*gen-*")] == [live.view().snapshot.name], "nothing is left over"


def equal_to_scratch(live: MutableIndex, state: State, world: World, like: Path, out: Path) -> None:
    with live.moment() as now:
        numbers = now.documents.rows(list(state))
    ordered = sorted(state.values(), key=lambda document: numbers[document.id])
    made, anew = live.folder / live.view().snapshot.name, scratch(out, ordered, world, like, split(live))
    for name in ("vectors.f16.npy", "stage.faiss"):
        assert (made / name).read_bytes() == (anew / name).read_bytes()


@pytest.mark.parametrize("step", CompactionStep)
def test_killed_between_any_two_steps_of_a_compaction(
    writers: Writers, world: World, step: CompactionStep, index: Path, kind: IndexKind, tmp_path: Path
) -> None:
    MutableIndex.open(index, world.bundle, writable=True).close()
    done = writers.run(index, 7, -1, 0, step)
    assert done == writer.COMPACT_EACH
    with reopened(index, world) as live:
        check(live, states(start(world), 7, done, world)[:1], world)
        assert live.view().snapshot.name == (
            "gen-000001" if step in (CompactionStep.SWAPPED, CompactionStep.SWEPT) else ""
        )
        assert live.compact() is True
        check(live, states(start(world), 7, done, world)[:1], world)
        assert len(list(live.folder.glob("*gen-*"))) == 1
