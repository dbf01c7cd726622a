"""The documents of an index under another bundle: all of them, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship import bundle as bundles
from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.errors import EmbedshipError, EngineError, MismatchError, UnsafeError, UsageError
from embedship.serve.bulk import run as bulk_run
from embedship.serve.commands.index_migrate import MigrationProgress
from embedship.serve.commands.index_progress import IndexProgress
from embedship.serve.commands.index_report import report
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import read
from embedship.serve.indexing.build import BuildResult, IndexOptions, build
from embedship.serve.indexing.migrate import migrate, options_from_index, work_folder
from embedship.stdlib_docs import DocEntry

from ..index.test_folder import flip
from .test_build import contents, largest_file

CHUNKING = Chunking(tokens=48, overlap=6)


class Silent:
    texts = 0

    def start(self, texts: int, done: int) -> None:
        self.done = done

    def encoded(self, texts: int, tokens: int) -> None:
        self.texts += texts


@pytest.fixture(scope="module")
def other(encoder: Encoder) -> Encoder:
    """The encoder of another bundle, which gives documents another prompt, and so other vectors."""
    described = encoder.bundle.manifest
    pipeline = msgspec.structs.replace(described.pipeline, prompts={"query": "ask: ", "document": "shout: "})
    name = bundles.fingerprint(described.source, pipeline, described.tokenizer_sha256)
    bundle = Bundle(encoder.bundle.folder, msgspec.structs.replace(described, pipeline=pipeline, fingerprint=name))
    return Encoder(bundle, encoder.variant, type(encoder.tokenizer).open(bundle), encoder.engine)


@pytest.fixture(scope="module")
def old(encoder: Encoder, entries: list[DocEntry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents in chunks, by the first bundle."""
    folder = tmp_path_factory.mktemp("old")
    rows = [{"id": e.id, "text": e.body[:900], "title": e.summary[:20], "n": n} for n, e in enumerate(entries[:60])]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = IndexOptions(IndexKind.BINARY, with_title=True, effort=SearchEffort(oversample=70), chunking=CHUNKING)
    build(encoder, "any", folder / "corpus.jsonl", folder / "index", options, lambda *_: None)
    return folder / "index"


def options_of(old: Path) -> IndexOptions:
    found = read(old)
    return options_from_index(found, None, found.chunking, None)


def test_every_document_is_embedded_by_the_other_bundle(
    encoder: Encoder, other: Encoder, old: Path, tmp_path: Path
) -> None:
    before = contents(old)
    made = migrate(other, old, tmp_path / "new", options_of(old), Silent(), 64)
    assert contents(old) == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    was = read(old)
    assert (made.kind, made.chunking, made.with_title, made.documents) == (
        IndexKind.BINARY,
        CHUNKING,
        True,
        was.documents,
    )
    assert made.effort.oversample == 70
    assert (made.prompts.document, made.prompts.query) == ("shout: ", "ask: ")
    assert made.size > was.size, "the longer prompt leaves less room for the text"
    with pytest.raises(MismatchError):
        IndexFolder.open(tmp_path / "new", encoder.bundle)
    with IndexFolder.open(tmp_path / "new", other.bundle) as new, IndexFolder.open(old, encoder.bundle) as first:
        assert list(new.documents.whole()) == list(first.documents.whole())
        chunks = new.documents.fetch(range(made.size))
        expected = other.encode([f"{c.title} {c.text}" for c in chunks], prompt_name="document")
        hits = new.index.exact(expected, 1)
        np.testing.assert_allclose(hits.scores[:, 0], 1, atol=3e-3)
        assert (hits.rows[:, 0] == np.arange(made.size)).mean() > 0.97  # a few chunks are the same text


def test_other_options_if_requested(encoder: Encoder, old: Path, tmp_path: Path) -> None:
    """And without chunks it says what the model does not read."""
    made = migrate(encoder, old, tmp_path / "new", options_from_index(read(old), IndexKind.FLAT, None, None), Silent())
    assert (made.kind, made.chunking, made.size) == (IndexKind.FLAT, None, 60)
    lines = (old.parent / "corpus.jsonl").read_text().splitlines()
    texts = [f"{row['title']} {row['text']}" for row in map(json.loads, lines)]
    cut = encoder.tokenizer(texts).cut
    assert (made.truncated.texts, made.truncated.tokens) == (sum(each > 0 for each in cut), sum(cut))
    short = msgspec.structs.replace(encoder.bundle.manifest.pipeline, max_tokens=40)
    bundle = Bundle(encoder.bundle.folder, msgspec.structs.replace(encoder.bundle.manifest, pipeline=short))
    narrow = Encoder(bundle, encoder.variant, type(encoder.tokenizer).open(bundle), encoder.engine)
    made = migrate(narrow, old, tmp_path / "cut", options_from_index(read(old), IndexKind.FLAT, None, None), Silent())
    assert 0 < made.truncated.texts < 60
    assert 0 < made.truncated.worst <= made.truncated.tokens < made.truncated.of
    with pytest.raises(UsageError, match="--chunk is 48; this model reads at most 40 tokens"):
        migrate(narrow, old, tmp_path / "none", options_of(old), Silent())


def unfinished(encoder: Encoder, old: Path, out: Path) -> None:
    class Worn(Silent):
        def encoded(self, texts: int, tokens: int) -> None:
            super().encoded(texts, tokens)
            if self.texts > 100:
                raise EngineError("worn out")

    with pytest.raises(EngineError, match="worn out"):
        migrate(encoder, old, out, options_of(old), Worn(), 32)


def test_it_continues_where_it_failed(
    other: Encoder, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    migrate(other, old, tmp_path / "clean", options_of(old), Silent(), 32)
    unfinished(other, old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    watcher = Silent()
    made = migrate(other, old, tmp_path / "new", options_of(old), watcher, 32)
    assert watcher.done >= 64
    assert watcher.done + watcher.texts == made.size
    assert contents(tmp_path / "new") == contents(tmp_path / "clean")


def test_other_options_do_not_continue_it(other: Encoder, old: Path, tmp_path: Path) -> None:
    unfinished(other, old, tmp_path / "new")
    flat = options_from_index(read(old), IndexKind.FLAT, CHUNKING, None)
    with pytest.raises(UsageError, match=r"kind was 'binary', is 'flat'.*--force"):
        migrate(other, old, tmp_path / "new", flat, Silent())
    assert migrate(other, old, tmp_path / "new", flat, Silent(), force=True).kind is IndexKind.FLAT


def test_force_deletes_nothing_before_all_is_checked(other: Encoder, old: Path, tmp_path: Path) -> None:
    """Neither of a run that goes on at this moment, nor for a source that is refused."""
    unfinished(other, old, tmp_path / "new")
    there = contents(work_folder(tmp_path / "new"))
    with bulk_run.locked(work_folder(tmp_path / "new")), pytest.raises(UsageError, match="another run writes"):
        migrate(other, old, tmp_path / "new", options_of(old), Silent(), force=True)
    shutil.copytree(old, tmp_path / "old")
    flip(tmp_path / "old" / DOCUMENTS)
    with pytest.raises(UnsafeError, match="has changed"):
        migrate(other, tmp_path / "old", tmp_path / "new", options_of(old), Silent(), force=True)
    assert contents(work_folder(tmp_path / "new")) == there


def test_a_work_folder_without_a_plan_is_emptied(other: Encoder, old: Path, tmp_path: Path) -> None:
    """A run that was killed while it cleaned up: the origin of its documents is unknown."""
    unfinished(other, old, tmp_path / "new")
    work = work_folder(tmp_path / "new")
    (work / "migration.json").unlink()
    (work / DOCUMENTS).write_bytes(b"of another index")
    made = migrate(other, old, tmp_path / "new", options_of(old), Silent())
    with IndexFolder.open(tmp_path / "new", other.bundle) as opened:
        assert opened.documents.count == made.documents == 60


@pytest.mark.parametrize("size", [30_000, 90_000])
def test_a_full_disk_loses_nothing(other: Encoder, old: Path, tmp_path: Path, size: int) -> None:
    """The disk is full while documents, or while vectors, are written."""
    with largest_file(size), pytest.raises(EmbedshipError, match=r"could not be written"):
        migrate(other, old, tmp_path / "new", options_of(old), Silent(), 256)
    assert not (tmp_path / "new").exists()
    made = migrate(other, old, tmp_path / "new", options_of(old), Silent(), 256)
    assert read(tmp_path / "new") == made


def test_an_old_index_that_was_changed_is_refused(encoder: Encoder, old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "old")
    flip(tmp_path / "old" / DOCUMENTS)
    with pytest.raises(UnsafeError, match=f"{DOCUMENTS} has changed"):
        migrate(encoder, tmp_path / "old", tmp_path / "new", options_of(old), Silent())


def test_an_out_that_is_not_an_index_is_refused_at_the_start(encoder: Encoder, old: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("precious")
    with pytest.raises(UsageError, match="remove it, or give another --out"):
        migrate(encoder, old, tmp_path / "new", options_of(old), Silent())
    assert contents(tmp_path) == {"new": b"precious"}


KILLED = """
import os, signal, sys
from pathlib import Path
bundle, old, out, after = sys.argv[1:]
left = int(after)
watched = ("open", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect")

def hook(event, arguments):
    global left
    if event in watched and str(arguments[0]).startswith((out, os.path.dirname(out) + "/.new")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

from embedship import Encoder
from embedship.serve.index.manifest import read
from embedship.serve.indexing.migrate import options_from_index, migrate
class Silent:
    def start(self, texts, done): pass
    def encoded(self, texts, tokens): pass
found = read(Path(old))
with Encoder.open(bundle, "openvino-int8", streams=1) as encoder:
    sys.addaudithook(hook)
    migrate(encoder, Path(old), Path(out), options_from_index(found, None, found.chunking, None), Silent(), 64)
"""


def test_killed_at_any_point_it_ends_with_the_same_bytes(bundle: Path, old: Path, tmp_path: Path) -> None:
    """SIGKILL before a random one of the steps that touch the disk, until a run gets through."""
    draw = random.Random(4)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}

    def migrated(out: Path, after: int) -> int:
        command = [sys.executable, "-P", "-c", KILLED, str(bundle), str(old), str(out), str(after)]
        return subprocess.run(command, timeout=120, check=False, env=environment).returncode

    (tmp_path / "clean").mkdir()
    assert migrated(tmp_path / "clean" / "new", 0) == 0
    codes: list[int] = []
    while 0 not in codes and len(codes) < 8:
        codes.append(migrated(tmp_path / "new", draw.randint(5, 45) if len(codes) < 5 else 0))
    assert codes.count(-signal.SIGKILL) == len(codes) - 1 >= 3
    assert contents(tmp_path / "new") == contents(tmp_path / "clean" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "new"]


def test_the_speed_is_that_of_this_run(encoder: Encoder, old: Path, tmp_path: Path) -> None:
    unfinished(encoder, old, tmp_path / "new")
    watcher = MigrationProgress(IndexProgress())
    made = migrate(encoder, old, tmp_path / "new", options_of(old), watcher, 32)
    assert watcher.resumed >= 64
    speed = report(tmp_path / "new", BuildResult(made, watcher.texts, watcher.seconds)).texts_per_second
    assert speed == round((made.size - watcher.resumed) / watcher.seconds, 1)


def test_the_command(bundle: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    command = ["index", "migrate", str(old), str(bundle), "--out", str(out)]
    assert run([*command, "--kind", "flat", "--chunk", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["rows"], report["chunking"], report["kind"]) == (60, 60, None, "flat")
    assert report["texts_per_second"] > 0
    assert run([*command, "--chunk", "4"]) == 2
    assert "--chunk is 4" in capsys.readouterr().err
