"""`embedship index update` with a real index and a real bundle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedship.commands.main import run
from embedship.serve.indexing import update as updating
from embedship.serve.live.index import MutableIndex

from .conftest import DOCUMENTS, World, documents, nearest


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(index: Path, changes: Path, bundle: Path) -> list[str]:
    return ["index", "update", str(index), str(changes), "--bundle", str(bundle), "--json"]


def test_changes_are_applied_once(
    flat: Path, world: World, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = written(
        tmp_path / "changes.jsonl",
        {"id": "new", "text": world.texts[200], "kind": "drug"},
        {"_id": "d1", "text": world.texts[201]},
        {"id": "d2", "delete": True},
        {"id": "d3", "text": "first this"},
        {"id": "d3", "text": "then that"},
        {"id": "d4", "text": "word " * 1000},
        {"id": "none", "delete": True},
    )
    report = {"lines": 7, "new": 1, "replaced": 3, "unchanged": 0, "deleted": 1, "truncated": 1, "documents": DOCUMENTS}
    assert run(command(flat, changes, bundle)) == 0
    out, err = capsys.readouterr()
    assert json.loads(out).items() >= report.items()
    assert "updating" in err
    with MutableIndex.open(flat, world.bundle, writable=False) as live:
        there = documents(live)
        assert there["new"].metadata == {"kind": "drug"}
        assert there["d3"].text == "then that"
        assert "d2" not in there
        assert [ids[0] for ids in nearest(live, world.vectors[[200, 201]])] == ["new", "d1"]
    assert run(command(flat, changes, bundle)) == 0
    again = {"new": 0, "replaced": 0, "unchanged": 4, "deleted": 0, "documents": DOCUMENTS}
    assert json.loads(capsys.readouterr().out).items() >= again.items()


def test_documents_are_chunked_as_in_the_index(
    cut: Path, world: World, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(world.texts[200:204])
    changes = written(
        tmp_path / "changes.jsonl",
        {"id": "new", "text": long},
        {"id": "d1", "text": "short"},
        {"id": "d2", "delete": True},
    )
    assert run(command(cut, changes, bundle)) == 0
    report = {"new": 1, "replaced": 1, "unchanged": 0, "deleted": 1, "truncated": 0, "documents": DOCUMENTS}
    assert json.loads(capsys.readouterr().out).items() >= report.items()
    with MutableIndex.open(cut, world.bundle, writable=False) as live, live.read_view() as now:
        chunks = live.size.rows - (2 * DOCUMENTS - 2 - 1)
        assert chunks > 4
        first = now.documents.rows(["new"])["new"]
        for number, piece in enumerate(now.documents.fetch(range(first, first + chunks))):
            assert piece.chunk is not None
            assert (piece.id, piece.chunk.number) == ("new", number)
            assert piece.text == long[piece.chunk.start : piece.chunk.end]
        assert now.documents.full_texts(["new"])["new"].text == long
    assert run(command(cut, changes, bundle)) == 0
    again = {"new": 0, "replaced": 0, "unchanged": 2, "deleted": 0}
    assert json.loads(capsys.readouterr().out).items() >= again.items()


def test_documents_without_text_are_skipped_and_named(
    flat: Path, world: World, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Documents that the index already has under these ids stay."""
    changes = written(
        tmp_path / "changes.jsonl", {"id": "new", "text": "x"}, {"id": "d1", "text": " "}, {"id": "empty", "text": ""}
    )
    assert run(command(flat, changes, bundle)) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["lines"], report["new"], report["replaced"]) == (3, 1, 0)
    assert report["skipped"] == {"documents": 2, "ids": ["d1", "empty"]}
    with MutableIndex.open(flat, world.bundle, writable=False) as live:
        assert live.size.documents == DOCUMENTS + 1
    assert run(command(flat, changes, bundle)[:-1]) == 0
    assert "skipped (no text): 2 (d1, empty)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": "x", "delete": True, "text": "y"}, 'line 2: a line that deletes must be {"id", "delete": true} and'),
        ({"delete": True}, "line 2: a line that deletes must be"),
        ({"id": "x", "text": None}, "line 2: `text` must be a string, not null"),
    ],
)
def test_a_bad_line_changes_nothing(
    flat: Path,
    world: World,
    bundle: Path,
    tmp_path: Path,
    row: object,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = written(tmp_path / "changes.jsonl", {"id": "new", "text": "x"}, row)
    assert run(command(flat, changes, bundle)) == 2
    assert sentence in json.loads(capsys.readouterr().out)["error"]
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        assert live.size.documents == DOCUMENTS
        assert live.size.changes == 0


def test_a_server_that_writes_is_named(
    flat: Path, world: World, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = written(tmp_path / "changes.jsonl", {"id": "new", "text": "x"})
    with MutableIndex.open(flat, world.bundle, writable=True):
        assert run(command(flat, changes, bundle)) == 2
    assert "another process writes to" in json.loads(capsys.readouterr().out)["error"]


def test_after_a_kill_the_same_command_continues(flat: Path, world: World, bundle: Path, tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": f"short text {n}"} for n in range(12 * updating.BATCH)]
    changes = written(tmp_path / "changes.jsonl", *rows)
    arguments = [sys.executable, "-P", "-m", "embedship", *command(flat, changes, bundle)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not (flat.parent / "index.live" / "lock").exists() and process.poll() is None:
            pass
        with MutableIndex.open(flat, world.bundle, writable=False) as live:
            while live.size.documents <= DOCUMENTS and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            there = live.size.documents
    assert there % updating.BATCH == 0, "whole batches"
    assert updating.BATCH <= there < len(rows)
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
    report = json.loads(answer.stdout)
    assert (report["documents"], report["unchanged"]) == (len(rows), there)
    assert report["new"] == len(rows) - there


def test_a_backup_includes_the_changes(flat: Path, world: World, tmp_path: Path) -> None:
    """While a writer is open but does not write. Both folders are copied."""
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        live.write([world.put("d1", 200)])
        live.compact()
        live.write([world.put("d2", 201)])
        assert run(["backup", str(flat), str(live.folder), "--to", str(tmp_path / "copies")]) == 0
        live.write([world.put("d1", 202)])
    (copy,) = (tmp_path / "copies").iterdir()
    for name in ("index", "index.live"):
        assert run(["restore", str(copy), "--folder", name, "--out", str(tmp_path / "back" / name)]) == 0
    with MutableIndex.open(tmp_path / "back" / "index", world.bundle, writable=True) as back:
        assert nearest(back, world.vectors[[200, 201]], 1) == [["d1"], ["d2"]]
