"""Commands that read the folder INDEX directly use the changes next to it, or refuse."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.errors import EngineError
from embedship.serve.documents.changes import DeleteDocument
from embedship.serve.documents.store import Document
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import read
from embedship.serve.indexing.migrate import migrate, options_from_index
from embedship.serve.live.index import MutableIndex

from .conftest import DOCUMENTS, World


class Silent:
    def start(self, texts: int, done: int) -> None: ...

    def encoded(self, texts: int, tokens: int) -> None: ...


class Worn(Silent):
    def encoded(self, texts: int, tokens: int) -> None:
        raise EngineError("worn out")


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder.open(bundle) as encoder:
        yield encoder


def migrated(encoder: Encoder, index: Path, out: Path) -> dict[str, Document]:
    migrate(encoder, index, out, options_from_index(read(index), None, None, None), Silent())
    return held(out, encoder.bundle)


def held(out: Path, bundle: Bundle) -> dict[str, Document]:
    with IndexFolder.open(out, bundle) as opened:
        return {document.id: document for _, document in opened.documents.whole()}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_migration_includes_the_changes(
    encoder: Encoder, world: World, flat: Path, tmp_path: Path, compacted: bool
) -> None:
    """Also while a writer (here in this process) has the index open."""
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        live.write([world.put("new", 200), DeleteDocument("d3"), world.put("d4", 201)])
        if compacted:
            live.compact()
        found = migrated(encoder, flat, tmp_path / "new")
    wanted = {f"d{n}": world.document(f"d{n}", n) for n in range(DOCUMENTS) if n != 3}
    assert found == wanted | {"new": world.document("new", 200), "d4": world.document("d4", 201)}


def test_an_unfinished_migration_continues_with_the_documents_of_its_start(
    encoder: Encoder, world: World, flat: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It also warns of the later changes."""
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        live.write([world.put("new", 200)])
        with pytest.raises(EngineError, match="worn out"):
            migrate(encoder, flat, tmp_path / "new", options_from_index(read(flat), None, None, None), Worn())
        live.write([DeleteDocument("d3")])
        with caplog.at_level(logging.WARNING, "embedship"):
            found = migrated(encoder, flat, tmp_path / "new")
    assert {"new", "d3"} <= found.keys()
    assert "was changed while it was migrated (version 1, now 2)" in caplog.text


def test_an_unfinished_migration_without_documents_starts_with_the_current_ones(
    encoder: Encoder, world: World, flat: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        with pytest.raises(EngineError, match="worn out"):
            migrate(encoder, flat, tmp_path / "new", options_from_index(read(flat), None, None, None), Worn())
        (tmp_path / ".new.migrating" / "documents.sqlite").unlink()
        live.write([DeleteDocument("d3")])
        assert "d3" not in migrated(encoder, flat, tmp_path / "new")
    assert "was changed" not in caplog.text


def test_commands_that_cannot_read_changes_refuse(
    world: World, flat: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"text": world.texts[200], "relevant": ["new"]}) + "\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"text": world.texts[200]}) + "\n")
    export = ["monitor", "export", "--bundle", str(bundle), "--index", str(flat), "--out", str(tmp_path / "out.jsonl")]
    commands = (
        ["index", str(bundle), "--from", str(flat), "--out", str(tmp_path / "binary"), "--kind", "binary"],
        ["compare", str(bundle), str(bundle), str(tmp_path / "queries.jsonl"), "--index", str(flat)],
        [*export, "--probes", str(tmp_path / "asked.jsonl")],
    )
    with MutableIndex.open(flat, world.bundle, writable=True) as live:
        assert run(commands[0]) == 0, "there are no changes yet"
        live.write([world.put("new", 200)])
    capsys.readouterr()
    for command in commands:
        assert run(command) == 2, command
        assert "has changes that" in capsys.readouterr().err
