"""Changes to an index of chunks: the rows of a document stay together, and results equal those of a new index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedship.serve.documents.changes import Change, ChangeCounts, ChunkedDocuments, DeleteDocument
from embedship.serve.index import manifest
from embedship.serve.index.folder import IndexFolder
from embedship.serve.live.index import MutableIndex

from . import writer
from .conftest import DOCUMENTS, World, cut_start, documents, lined, scratch

TEXTS = ["word12 of0x0", "of5x40", "word7 word8 word9"]


def put(world: World, id: str, *texts: int) -> Change:
    pieces = ChunkedDocuments.from_documents([lined([*texts], id)], writer.lines)
    return pieces.puts(world.vectors[[*texts]])[0]


def rows_of(live: MutableIndex, id: str) -> list[int]:
    """Return the rows in the database. Check that each has the right chunk and belongs to its document."""
    with live.read_view() as now:
        assert now.firsts is not None
        first = now.documents.rows([id])[id]
        (chunks,) = writer.lines([now.documents.full_texts([id])[id]])
        rows = list(range(first, first + len(chunks)))
        assert now.documents.fetch(rows) == chunks
        assert now.firsts[rows].tolist() == [first] * len(rows)
        return rows


def test_a_document_has_rows_of_its_own_one_after_the_other(cut: Path, world: World) -> None:
    with MutableIndex.open(cut, world.bundle, writable=True) as live:
        assert live.size[:5] == (DOCUMENTS, 2 * DOCUMENTS, 0, 0, 0)
        assert live.write(
            [put(world, "new", 200, 201, 202), DeleteDocument("d3"), DeleteDocument("unknown")]
        ) == ChangeCounts(1, 0, 1)
        assert rows_of(live, "new") == [120, 121, 122]
        assert live.size[:5] == (DOCUMENTS, 2 * DOCUMENTS + 1, 1, 3, 2)
        assert live.write([put(world, "d4", 210), put(world, "d5", 211, 212, 213)]) == ChangeCounts(0, 2, 0)
        assert rows_of(live, "d4") == [8], "fewer chunks than before: the first rows stay"
        assert rows_of(live, "d5") == [123, 124, 125], "more: new ones"
        assert live.size[:5] == (DOCUMENTS, 2 * DOCUMENTS + 1, 3, 7, 6)
        live.write([put(world, "d4", 214, 215)])
        assert rows_of(live, "d4") == [126, 127], "a row that is gone never comes back"
        with live.read_view() as now:
            every = now.index.search(world.vectors[:1], 400).rows[0]
            found = {each.id for each in now.documents.fetch(every[every >= 0].tolist())}
            assert found == {f"d{n}" for n in range(DOCUMENTS)} - {"d3"} | {"new"}
            assert np.count_nonzero(every >= 0) == live.size.rows
            assert now.words.search(["word103 word3 word5 word210"], 10).rows[0].tolist() == [-1] * 10


def test_unchanged_documents_are_recognised_by_the_whole_text(cut: Path, world: World) -> None:
    with MutableIndex.open(cut, world.bundle, writable=True) as live:
        same, other = cut_start()["d1"], lined([1, 102], "d1")
        assert live.changed_documents([same, lined([7], "new")]) == [lined([7], "new")]
        assert live.changed_documents([other]) == [other], "its first chunk is as before, its second is not"


def test_a_read_view_keeps_its_rows(cut: Path, world: World) -> None:
    with MutableIndex.open(cut, world.bundle, writable=True) as live, live.read_view() as before:
        live.write([put(world, "d1", 220, 221, 222), put(world, "new", 223, 224)])
        live.compact()
        assert before.firsts is not None
        assert len(before.firsts) == before.index.size == 2 * DOCUMENTS
        assert before.documents.full_texts(["d1"]) == {"d1": cut_start()["d1"]}
        assert before.index.search(world.vectors[[1, 101]], 1).rows.tolist() == [[2], [3]]


@pytest.mark.parametrize("writable", [True, False])
def test_after_a_restart_and_a_compaction_it_equals_one_built_from_scratch(
    cut: Path, world: World, tmp_path: Path, writable: bool
) -> None:
    state = cut_start()
    with MutableIndex.open(cut, world.bundle, writable=True) as live:
        for number in range(60):
            changes = writer.transaction(5, number, world.vectors, cut=True)
            live.write(changes)
            for change in changes:
                state.pop(change.id if isinstance(change, DeleteDocument) else "", None)
                state |= {} if isinstance(change, DeleteDocument) else {change.document.id: change.document}
            if number == 30:
                live.compact()
        live.compact()
    with MutableIndex.open(cut, world.bundle, writable=writable) as live:
        assert documents(live) == state
        for id in state:
            rows_of(live, id)
        with live.read_view() as now:
            first = now.documents.rows(list(state))
        made = live.view().snapshot
        assert (made.manifest.documents, made.manifest.size) == live.size[:2]
        ordered = sorted(state.values(), key=lambda document: first[document.id])
        anew = scratch(tmp_path / "anew", ordered, world, cut, writer.lines)
        for name in ("vectors.f16.npy", "stage.faiss"):
            assert (live.folder / made.name / name).read_bytes() == (anew / name).read_bytes()
        with IndexFolder.open(anew, world.bundle) as other, live.read_view() as now:
            assert manifest.read(anew).size == live.size.rows
            number = np.array([*made.numbers, -1])
            for mine, its in (
                (now.index.search(world.vectors, 20), other.index.search(world.vectors, 20)),
                (now.words.search(TEXTS, 20), other.words.search(TEXTS, 20)),
            ):
                np.testing.assert_array_equal(mine.rows, number[its.rows])
                np.testing.assert_allclose(mine.scores, its.scores, rtol=1e-5)
