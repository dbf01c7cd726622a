from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from embedship.errors import UnsafeError, UsageError
from embedship.serve.documents import store
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import Document, DocumentStore

FIVE = [
    Document("a", "first"),
    Document("b", "zweites, mit Ümläuten und 🙂", "Titel"),
    Document("c", "nul \0 inside\nand a line", metadata={"deep": {"list": [1, 2.5, None, True]}, "n": 2**60}),
    Document("", "an empty id is the corpus reader's business"),
    Document("e'; DROP TABLE documents; --", "last", "", {}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a #strange? folder%20" / "documents.sqlite"
    path.parent.mkdir()
    assert store.write(path, enumerate(FIVE, 1)) == 5
    return path


def test_what_was_written_comes_back_in_the_order_asked_for(path: Path) -> None:
    with closing(DocumentStore.open(path)) as opened:
        assert opened.size == 5
        assert opened.fetch(range(5)) == FIVE
        assert opened.fetch([4, 0, 2, 0]) == [FIVE[4], FIVE[0], FIVE[2], FIVE[0]]
        assert opened.fetch([]) == []
        assert opened.ids() == {document.id for document in FIVE}


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_does_not_exist(path: Path, row: int) -> None:
    with closing(DocumentStore.open(path)) as opened, pytest.raises(IndexError, match=rf"rows are there: \[0, {row}\]"):
        opened.fetch([0, row])


def test_many_threads_read_what_one_reads(path: Path) -> None:
    asked = [[i % 5, (i * 3) % 5, 2] for i in range(200)]
    with closing(DocumentStore.open(path)) as opened, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(opened.fetch, asked)) == [[FIVE[row] for row in rows] for rows in asked]


def test_opened_for_reading_only(path: Path) -> None:
    with closing(DocumentStore.open(path)) as opened, pytest.raises(sqlite3.OperationalError, match="readonly"):
        opened._connection.execute("DELETE FROM documents")
    assert sorted(p.name for p in path.parent.iterdir()) == ["documents.sqlite"]


def test_an_id_twice_names_both_lines(tmp_path: Path) -> None:
    lines = [(2, FIVE[0]), (3, FIVE[1]), (9, Document("a", "again"))]
    with pytest.raises(UsageError, match="line 9: the id 'a' was given to line 2 already"):
        store.write(tmp_path / "documents.sqlite", lines)


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but long enough to look like one" * 30])
def test_no_documents(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "documents.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnsafeError, match=r"documents.sqlite is damaged"):
        DocumentStore.open(path)


HOSTILE = {
    "a view that never ends": "CREATE VIEW more AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
    "SELECT i FROM n",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON documents BEGIN UPDATE documents SET text = 'evil'; END",
    "an index of an expression": "CREATE INDEX i ON documents (upper(text))",
    "another table": "CREATE TABLE more (a)",
}


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_with_a_schema_of_its_own_is_refused(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(UnsafeError, match="its schema differs in"):
        DocumentStore.open(path)
    with pytest.raises(UnsafeError, match="its schema differs in"):
        KeywordIndex.open(path, 5)


def test_a_view_in_the_place_of_the_table_is_refused_and_not_asked(path: Path) -> None:
    """Asked, it would never answer."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DROP TABLE documents")
        connection.execute(
            "CREATE VIEW documents AS WITH RECURSIVE n(row) AS (SELECT 1 UNION ALL SELECT row + 1 FROM n) "
            "SELECT row, 0 AS number FROM n"
        )
        connection.commit()
    with pytest.raises(UnsafeError, match="view documents"):
        DocumentStore.open(path)


def test_nothing_of_the_schema_is_trusted(path: Path) -> None:
    with closing(store.connect(path)) as connection:
        found = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("trusted_schema", "query_only")]
    assert found == [(0,), (1,)]
