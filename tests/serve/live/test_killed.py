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
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from embedship.serve.documents import Document
from embedship.serve.index import Kind
from embedship.serve.live.changes import Change, Delete
from embedship.serve.live.index import LiveIndex, Step

from . import writer
from .conftest import DOCUMENTS, World, documents, scratch

KILLS = 200
SECONDS = 60.0

State = dict[str, Document]


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
        pid, done = 0, 0
        for line in self._process.stdout:
            word, _, number = line.strip().partition(" ")
            if word == "ended":
                break
            if word == "pid":
                pid = int(number)
            if word == "done":
                done = int(number) + 1
            if done == acknowledged and not step:
                threading.Timer(delay, os.kill, (pid, signal.SIGKILL)).start()
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
        if isinstance(change, Delete):
            state.pop(change.id, None)
        else:
            state[change.document.id] = change.document
    return state


@contextmanager
def reopened(index: Path, world: World) -> Iterator[LiveIndex]:
    with LiveIndex.open(index, world.bundle, writable=True) as live:
        yield live


def check(live: LiveIndex, possible: list[State], world: World) -> State:
    """It is in one of the possible states, the whole of it; returns which."""
    there = documents(live)
    assert there in possible, "an acknowledged change is lost, or a deleted document is back"
    with live.moment() as now:
        numbers = now.documents.rows(list(there))
        texts = [document.metadata["n"] for document in there.values()]
        hits = now.index.search(world.vectors[texts], 120)
        for (id, document), rows, scores in zip(there.items(), hits.rows, hits.scores, strict=True):
            found = rows[rows >= 0].tolist()
            assert set(found) == set(numbers.values()), "a stale number, or a document that no vector finds"
            assert scores[found.index(numbers[id])] == pytest.approx(1, abs=2e-2), "its own vector, not an old one"
            (words,) = now.words.search([(document.title or document.text).split()[-1]], 120).rows
            assert numbers[id] in words
            assert set(words[words >= 0].tolist()) <= set(numbers.values())
        for text in {*texts}:
            expected = {numbers[id] for id, document in there.items() if document.metadata["n"] == text}
            assert {*np.flatnonzero(now.words.allowed({"n": text})).tolist()} == expected
    return there


def start(world: World) -> State:
    return {f"d{n}": world.document(f"d{n}", n) for n in range(DOCUMENTS)}


def states(state: State, seed: int, done: int, world: World) -> list[State]:
    """After what was acknowledged; and after one transaction more, of which nobody knows."""
    for number in range(done):
        state = changed(state, writer.transaction(seed, number, world.vectors))
    return [state, changed(state, writer.transaction(seed, done, world.vectors))]


def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(writers: Writers, world: World, memory: Path) -> None:
    chance, state, total = random.Random(1), start(world), 0
    flat = Path(shutil.copytree(world.folders[Kind.FLAT], memory / "index"))
    LiveIndex.open(flat, world.bundle, writable=True).close()
    for kill in range(KILLS):
        # At a random moment of up to two compactions, or of a restart that has only begun.
        acknowledged, delay = chance.randrange(1, 25), chance.random() * 0.02
        done = writers.run(flat, kill, acknowledged, delay)
        total += done
        with reopened(flat, world) as live:
            state = check(live, states(state, kill, done, world), world)
    assert total > KILLS
    with reopened(flat, world) as live:
        live.compact()
        equal_to_scratch(live, state, world, flat, memory / "anew")
        assert [path.name for path in live.folder.glob("*gen-*")] == [live.view().snapshot.name], "nothing is left over"


def equal_to_scratch(live: LiveIndex, state: State, world: World, like: Path, out: Path) -> None:
    with live.moment() as now:
        numbers = now.documents.rows(list(state))
    ordered = sorted(state.values(), key=lambda document: numbers[document.id])
    made, anew = live.folder / live.view().snapshot.name, scratch(out, ordered, world, like)
    for name in ("vectors.f16.npy", "stage.faiss"):
        assert (made / name).read_bytes() == (anew / name).read_bytes()


@pytest.mark.parametrize("step", Step)
def test_killed_between_any_two_steps_of_a_compaction(
    writers: Writers, world: World, step: Step, index: Path, kind: Kind, tmp_path: Path
) -> None:
    LiveIndex.open(index, world.bundle, writable=True).close()
    done = writers.run(index, 7, -1, 0, step)
    assert done == writer.COMPACT_EACH
    with reopened(index, world) as live:
        check(live, states(start(world), 7, done, world)[:1], world)
        assert live.view().snapshot.name == ("gen-000001" if step in (Step.SWAPPED, Step.SWEPT) else "")
        assert live.compact() is True
        check(live, states(start(world), 7, done, world)[:1], world)
        assert len(list(live.folder.glob("*gen-*"))) == 1
