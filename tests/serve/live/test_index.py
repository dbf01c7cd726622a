"""Changes to a real index, held against a dictionary and against an index built from scratch."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from queue import Queue

import msgspec
import numpy as np
import pytest

from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.serve.documents.changes import ChangeCounts, DeleteDocument
from embedship.serve.documents.filters import Condition
from embedship.serve.documents.store import DOCUMENTS as FILE
from embedship.serve.documents.store import Document
from embedship.serve.index import IndexKind, IndexSize, manifest
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import QuantisationParams
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.live import changes_folder
from embedship.serve.live.compaction import CompactionResult, CompactionScheduler
from embedship.serve.live.index import CompactionStep, MutableIndex

from .conftest import DOCUMENTS, KINDS, World, after, documents, nearest, scratch, seeded


def first(world: World) -> dict[str, Document]:
    return {f"d{n}": world.document(f"d{n}", n) for n in range(DOCUMENTS)}


def test_what_was_written_is_found_at_once(live: MutableIndex, world: World) -> None:
    assert nearest(live, world.vectors[200:201])[0][0] != "new"
    assert live.write(
        [world.put("new", 200), DeleteDocument("d3"), world.put("d4", 201), DeleteDocument("unknown")]
    ) == ChangeCounts(1, 1, 1)
    assert [ids[0] for ids in nearest(live, world.vectors[[200, 201, 5]])] == ["new", "d4", "d5"]
    every = nearest(live, world.vectors[:1], 100)[0]
    assert len(every) == len(set(every)) == DOCUMENTS
    assert "d3" not in every
    with live.moment() as now:
        found = now.index.search(world.vectors[[200, 201]], 1)
        assert found.scores[:, 0] == pytest.approx(1, abs=2e-3), "of its new text, not of the one before"
        assert now.documents.fetch([now.documents.rows(["d4"])["d4"]]) == [world.document("d4", 201)]
    assert live.size == (DOCUMENTS, DOCUMENTS, 2, 2, 2, live.size.fresh_bytes)


def test_words_and_facts_change_with_the_documents(live: MutableIndex, world: World) -> None:
    rare = Document("d7", "xylophone", None, {"colour": "red", "n": 7})
    live.write([world.put("d9", 201)._replace(document=rare, chunks=[rare]), DeleteDocument("d8")])
    with live.moment() as now:
        row = now.documents.rows(["d7"])["d7"]
        assert now.words.search(["Xylophones"], 3).rows[0].tolist() == [row, -1, -1]
        assert np.flatnonzero(now.words.allowed({"colour": "red"})).tolist() == [row]
        assert np.flatnonzero(now.words.allowed({"n": 8})).tolist() == [], "it is deleted"
        gone = now.words.search([world.document("d7", 7).title or ""], 100).rows[0]
        assert row not in gone, "its old title is forgotten"
        allowed = now.words.allowed({"n": Condition(lte=20)})
        hits = now.index.search(world.vectors[7:8], 100, allowed)
        assert sorted(hits.rows[hits.rows >= 0]) == [n for n in range(21) if n != 8]
    live.write([DeleteDocument("d7")])
    with live.moment() as now:
        assert now.words.search(["xylophone"], 3).rows[0].tolist() == [-1, -1, -1]


def test_it_equals_an_index_built_from_scratch(
    live: MutableIndex, world: World, kind: IndexKind, index: Path, tmp_path: Path
) -> None:
    """Hits and scores of all three searches, before a compaction and after: BM25 counts documents that are there."""
    changes = seeded(world, 5, 300)
    for start in range(0, 300, 60):
        live.write(changes[start : start + 60])
        if start == 120:
            live.compact()
    wanted = after(first(world), changes)
    assert documents(live) == wanted
    with live.moment() as now:
        numbers = now.documents.rows(list(wanted))
    ordered = sorted(wanted.values(), key=lambda document: numbers[document.id])
    anew = scratch(tmp_path / "anew", ordered, world, index)
    with IndexFolder.open(anew, world.bundle) as other:
        for _ in range(2):
            compare(live, other, [numbers[document.id] for document in ordered], world)
            live.compact()
        assert live.size.changes == 0
    made = live.folder / live.view().snapshot.name
    for name in manifest.files(live.manifest.recipe) - {FILE}:
        assert (made / name).read_bytes() == (anew / name).read_bytes()


def compare(live: MutableIndex, other: IndexFolder, numbers: list[int], world: World) -> None:
    to_number = np.array([*numbers, -1])
    queries = world.vectors[100:200]
    texts = world.texts[100:120]
    with live.moment() as now:
        exact, expected = now.index.exact(queries, 10), other.index.exact(queries, 10)
        np.testing.assert_array_equal(exact.rows, to_number[expected.rows])
        np.testing.assert_allclose(exact.scores, expected.scores, atol=1e-5)
        found, built = now.index.search(queries, 10).rows, to_number[other.index.search(queries, 10).rows]
        same = np.mean([len({*a} & {*b}) for a, b in zip(found.tolist(), built.tolist(), strict=True)]) / 10
        assert same > 0.98, "a binary index ranks fresh vectors exactly, and those of its snapshot by their codes"
        if now.index.kind is IndexKind.FLAT:
            np.testing.assert_array_equal(found, built)
        for wanted in (None, {"tag": "odd"}):
            words, right = now.words.search(texts, 20, wanted), other.words.search(texts, 20, wanted)
            np.testing.assert_array_equal(words.rows, to_number[right.rows])
            np.testing.assert_allclose(words.scores, right.scores, rtol=1e-6)
        mine = now.words.allowed({"tag": "odd"})
        np.testing.assert_array_equal(
            np.flatnonzero(mine), np.sort(to_number[np.flatnonzero(other.words.allowed({"tag": "odd"}))])
        )
        filtered = now.index.search(queries, 5, mine).rows
        np.testing.assert_array_equal(
            filtered, to_number[other.index.exact(queries, 5, other.words.allowed({"tag": "odd"})).rows]
        )


def test_of_many_equal_texts_the_lowest_rows_are_found(live: MutableIndex, world: World) -> None:
    """More than any number of spare candidates."""
    live.write([world.put(f"same{n}", 200) for n in range(60)])
    with live.moment() as now:
        expected = sorted(now.documents.rows([f"same{n}" for n in range(60)]).values())[:10]
        for found in (now.index.search(world.vectors[200:201], 10), now.index.exact(world.vectors[200:201], 10)):
            assert found.rows[0].tolist() == expected
            assert len(set(found.scores[0].tolist())) == 1


def test_a_moment_does_not_change(live: MutableIndex, world: World) -> None:
    with live.moment() as before:
        index = before.index
        live.write([DeleteDocument("d1"), world.put("d2", 150), world.put("new", 151)])
        live.compact()
        live.write([world.put("d9", 152)])
        assert before.documents.rows(["d1", "new"]) == {"d1": 1}
        assert before.documents.fetch([2]) == [world.document("d2", 2)]
        assert index.search(world.vectors[[1, 2, 151]], 1).rows[:2, 0].tolist() == [1, 2]
        row = before.words.search([world.texts[1]], 1).rows[0, 0]
        assert row == 1
    assert "d1" not in nearest(live, world.vectors[1:2], 100)[0]
    assert index.exact(world.vectors[[1, 2]], 1).rows[:, 0].tolist() == [1, 2], "for the monitor, later"


def test_a_snapshot_stays_as_long_as_somebody_searches_it(live: MutableIndex, world: World) -> None:
    live.write([world.put("new", 200)])
    live.compact()
    view = live.view()
    old = live.folder / view.snapshot.name
    live.compact()
    assert old.is_dir()
    assert view.search(world.vectors[200:201], 1).rows[0, 0] == DOCUMENTS
    del view
    live.compact()
    assert not old.exists()
    assert [path.name for path in live.folder.glob("gen-*")] == ["gen-000003"]


def test_numbers_are_never_used_again(live: MutableIndex, world: World) -> None:
    live.write([world.put("new", 200)])
    live.write([DeleteDocument("new"), DeleteDocument("d59")])
    live.compact()
    live.write([world.put("new", 200)])
    with live.moment() as now:
        assert now.documents.rows(["new"]) == {"new": DOCUMENTS + 1}


def test_all_documents_may_go_and_come_back(live: MutableIndex, world: World) -> None:
    live.write([DeleteDocument(f"d{n}") for n in range(DOCUMENTS)])
    assert live.compact() is False
    assert nearest(live, world.vectors[:2]) == [[], []]
    assert live.size.documents == 0
    live.write([world.put("new", 3)])
    assert nearest(live, world.vectors[3:4]) == [["new"]]
    assert live.compact() is True
    assert nearest(live, world.vectors[3:4]) == [["new"]]


def test_one_document_put_a_thousand_times(flat: Path, world: World) -> None:
    """Stale rows are dropped from memory, and no view is disturbed by that."""
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        view = None
        for n in range(30):
            live.write([world.put(f"d{m}", (n + m) % 240) for m in range(60)])
            if n == 15:
                view = live.view()
            assert nearest(live, world.vectors[[n]], 1) == [["d0"]]
        assert live.size == (*5 * [DOCUMENTS], live.size.fresh_bytes)
        assert live.size.fresh_bytes < 30 * 60 * 384 * 4
        assert view is not None
        assert view.search(world.vectors[[15]], 1).rows.tolist() == [[0]]


def test_writers_and_readers_beside_each_other(live: MutableIndex, world: World) -> None:
    """Each search sees all of a transaction or none of it."""
    pairs = [[world.put("a", n), world.put("b", n)] for n in range(200)]

    def read(_: int) -> bool:
        with live.moment() as now:
            rows = now.documents.rows(["a", "b"])
            texts = {d.text for d in now.documents.fetch(list(rows.values()))}
            hits = now.index.search(world.vectors[:1], 100).rows
            return len(texts) <= 1 and set(rows.values()) <= set(hits[0].tolist())

    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(lambda: [live.write(list(pair)) for pair in pairs])
        compacting = threads.submit(lambda: [live.compact() for _ in range(5)])
        assert all(threads.map(read, range(300)))
        assert len(writing.result(60)) == 200
        assert compacting.result(60) == [True] * 5


def test_after_a_restart_it_is_as_it_was(index: Path, world: World) -> None:
    changes = seeded(world, 1, 100)
    with MutableIndex.open(index, world.bundle, writable=True) as live:
        live.write(changes[:50])
        live.compact()
        live.write(changes[50:])
        expected = nearest(live, world.vectors)
    for writable in (True, False):
        with MutableIndex.open(index, world.bundle, writable) as again:
            assert documents(again) == after(first(world), changes)
            assert nearest(again, world.vectors) == expected


def test_who_only_reads_sees_what_another_process_writes(index: Path, world: World) -> None:
    with (
        MutableIndex.open(index, world.bundle, writable=True) as writer,
        MutableIndex.open(index, world.bundle, writable=False) as reader,
    ):
        for text in (100, 101):
            writer.write([world.put("new", text), DeleteDocument(f"d{text - 100}")])
            assert nearest(reader, world.vectors[[text]], 1) == [["new"]]
            assert len(nearest(reader, world.vectors[:1], 100)[0]) == 160 - text
            writer.compact()
            assert nearest(reader, world.vectors[[text]], 1) == [["new"]]
            assert reader.view().snapshot.name == writer.view().snapshot.name


def test_one_process_writes(live: MutableIndex, index: Path, world: World) -> None:
    with pytest.raises(UsageError, match=r"another process writes to .*index\.live: send the changes to it"):
        MutableIndex.open(index, world.bundle, writable=True)


def test_changes_to_another_build_are_no_changes_to_this_one(index: Path, world: World, kind: IndexKind) -> None:
    MutableIndex.open(index, world.bundle, writable=True).close()
    shutil.rmtree(index)
    shutil.copytree(world.folders[next(each for each in KINDS if each is not kind)], index)
    with pytest.raises(MismatchError, match="holds changes to another build of"):
        MutableIndex.open(index, world.bundle, writable=True)


def write_over(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(("at", "content"), [(0, b"no database " * 400), (4096, b"\0" * 40960)])
def test_a_damaged_file_of_changes_is_a_sentence(
    flat: Path, world: World, at: int, content: bytes, writable: bool
) -> None:
    MutableIndex.open(flat, world.bundle, writable=True).close()
    write_over(changes_folder(flat) / FILE, at, content)
    with pytest.raises(UnsafeError, match=r"index\.live/documents\.sqlite is (damaged|no file of changes)"):
        MutableIndex.open(flat, world.bundle, writable)


def test_a_file_of_changes_of_another_format_or_model(flat: Path, world: World) -> None:
    MutableIndex.open(flat, world.bundle, writable=True).close()
    for statement, kind, sentence in (
        ("UPDATE about SET fingerprint = 'f00'", MismatchError, "embedded with model f00"),
        ("UPDATE about SET format = 9", UsageError, "has format 9; this embedship reads format 1"),
    ):
        connection = sqlite3.connect(changes_folder(flat) / FILE)
        connection.execute(statement)
        connection.commit()
        connection.close()
        with pytest.raises(kind, match=sentence):
            MutableIndex.open(flat, world.bundle, writable=True)


@pytest.mark.parametrize("name", ["vectors.f16.npy", "index.json"])
def test_a_damaged_snapshot_is_named_before_faiss_reads_it(index: Path, world: World, name: str) -> None:
    with MutableIndex.open(index, world.bundle, writable=True) as live:
        live.write([world.put("new", 100)])
        live.compact()
        path = live.folder / "gen-000001" / name
    write_over(path, path.stat().st_size // 2, b"\x7f")
    with pytest.raises(UnsafeError, match=rf"{name} (has|is) (changed|been changed|damaged)"):
        MutableIndex.open(index, world.bundle, writable=False)


def test_the_snapshot_of_another_index(index: Path, world: World, tmp_path: Path) -> None:
    """Whole and sealed, of the same model and the same size, and not the one that the documents belong to."""
    made = []
    for name in ("one", "two"):
        copy = shutil.copytree(index, tmp_path / name)
        with MutableIndex.open(copy, world.bundle, writable=True) as live:
            live.write([world.put("new", 100 + len(made))])
            live.compact()
            made.append(live.folder / "gen-000001")
    shutil.rmtree(made[0])
    made[1].rename(made[0])
    with pytest.raises(UnsafeError, match=r"index\.json is that of another snapshot"):
        MutableIndex.open(tmp_path / "one", world.bundle, writable=False)


def test_few_rows_are_left_in_many_lists(flat: Path, world: World, tmp_path: Path) -> None:
    """A compaction keeps the recipe, and FAISS wants as many rows to train on as it has lists."""
    recipe = IndexSpec(kind=IndexKind.FACTORY, factory="IVF800,SQ8", dimension=384, store=RerankStore.FLOAT16)
    described = msgspec.structs.replace(
        manifest.read(flat),
        recipe=recipe,
        packing=QuantisationParams(None, None),
        effort=SearchEffort(oversample=10, nprobe=800),
    )
    sparse = scratch(tmp_path / "lists", list(first(world).values()), world, flat, described=described)
    with MutableIndex.open(sparse, world.bundle, writable=True) as live:
        live.write([DeleteDocument(f"d{n}") for n in range(10, DOCUMENTS)])
        assert live.compact() is True
        queries = world.vectors[100:200]
        with live.moment() as now:
            np.testing.assert_array_equal(now.index.search(queries, 10).rows, now.index.exact(queries, 10).rows)


def test_a_compaction_that_raises_once_is_made_afterwards(live: MutableIndex, world: World) -> None:
    """Whatever it raises: FAISS has errors of its own."""
    told: Queue[CompactionResult] = Queue()

    class Once:
        folder, failed = live.folder, False

        @property
        def size(self) -> IndexSize:
            return live.size

        def compact(self) -> bool:
            if not self.failed:
                self.failed = True
                raise RuntimeError("a page of C++")
            return live.compact()

    live.write([DeleteDocument("d1")])
    compaction = CompactionScheduler(Once(), 0.0, lambda result, _: told.put(result), least=1, retry_seconds=0.01)  # type: ignore[arg-type]
    try:
        assert [told.get(timeout=60) for _ in range(2)] == [CompactionResult.FAILED, CompactionResult.DONE]
    finally:
        compaction.close()
    assert live.size.changes == 0


def test_a_stranger_in_a_snapshot(index: Path, world: World) -> None:
    with MutableIndex.open(index, world.bundle, writable=True) as live:
        live.write([world.put("new", 100)])
        live.compact()
        (live.folder / "gen-000001" / "evil.faiss").touch()
    with pytest.raises(UnsafeError, match=r"evil\.faiss was added"):
        MutableIndex.open(index, world.bundle, writable=True)


def test_a_compaction_goes_through_its_steps_while_others_write(live: MutableIndex, world: World) -> None:
    steps: list[CompactionStep] = []

    def step(each: CompactionStep) -> None:
        steps.append(each)
        n = len(steps)
        live.write([world.put(f"during-{n}", 100 + n), world.put(f"d{10 + n}", 110 + n), DeleteDocument(f"d{20 + n}")])
        assert nearest(live, world.vectors[[100 + n, 110 + n]], 1) == [[f"during-{n}"], [f"d{10 + n}"]]

    live.write([DeleteDocument("d1"), world.put("d2", 130)])
    assert live.compact(step) is True
    assert steps == list(CompactionStep)
    for n in range(1, 6):
        assert nearest(live, world.vectors[[100 + n, 110 + n]], 1) == [[f"during-{n}"], [f"d{10 + n}"]]
        assert f"d{20 + n}" not in nearest(live, world.vectors[[20 + n]], 100)[0]
    assert live.size[:5] == (DOCUMENTS - 1, DOCUMENTS - 1, 10, 10, 10), (
        "what was changed meanwhile is not in the snapshot"
    )


def test_a_trigger_of_the_index_is_not_taken_over(flat: Path, world: World) -> None:
    """It would run at every write. The attacker sealed the index anew."""
    with closing(sqlite3.connect(flat / FILE)) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON documents BEGIN UPDATE documents SET text = 'evil'; END")
        connection.commit()
    manifest.write(flat, manifest.read(flat))
    with pytest.raises(UnsafeError, match="trigger t"):
        MutableIndex.open(flat, world.bundle, writable=True)
    assert not changes_folder(flat).exists()


@pytest.mark.parametrize("name", ["../index", "/etc", "gen-1", "gen-000001/../../x"])
def test_a_snapshot_elsewhere_is_not_opened(index: Path, world: World, name: str) -> None:
    with MutableIndex.open(index, world.bundle, writable=True) as live:
        live.write([world.put("new", 100)])
        live.compact()
    with closing(sqlite3.connect(changes_folder(index) / FILE)) as connection:
        connection.execute("UPDATE state SET snapshot = ?", [name])
        connection.commit()
    with pytest.raises(UnsafeError, match="names the snapshot"):
        MutableIndex.open(index, world.bundle, writable=False)
