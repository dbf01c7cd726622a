"""A thousand damaged or malicious bundles and indexes: refused with a sentence, or right, and nothing written outside.

`pull`, `serve` and `reload` are called below their command lines. tests/test_foreign_bytes.py does the same to
`restore`. The graph and the FAISS file are changed without a new hash only: their parsers in C++ may crash, which
docs/threat-model.md says, and a reload tries an index in a child process first.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from embedship import golden
from embedship.bundle import MANIFEST, TOKENIZER, Bundle, BundleManifest, fingerprint
from embedship.encoder import Encoder
from embedship.errors import EmbedshipError, UnsafeError
from embedship.files import sealed
from embedship.files.sealed import SealedFile, sha256_of
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.http.app import App
from embedship.serve.index import manifest
from embedship.serve.live.backend import FolderBackend
from embedship.serve.search.backend import BackendUnavailable, SearchParams
from embedship.serve.search.fusion import SearchMode
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.tokens import Tokenizer
from embedship.transfer.errors import NotFound
from embedship.transfer.pull import PullOptions, pull
from embedship.transfer.retry import RetryPolicy

from . import tiny

NAMES = [
    "../x",
    "/tmp/embedship-x",
    "a/../../x",
    "onnx//etc/x",
    "",
    ".",
    "a\0b",
    "x" * 300,
    "bundle.json",
    "b\\c",
    "new",
]
VALUES: list[Any] = [None, True, -1, 0, 2**63, 2**70, 1e308, "", "x", "../x", "\0", [], [[]], {}, {"a": 1}, [-1], ["x"]]
KEY = "an-admin-key-of-the-tests"
PARSED_IN_C = ("onnx", "faiss")


@pytest.fixture(scope="module")
def right(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/ and index/, as embedship writes them."""
    folder = tmp_path_factory.mktemp("right")
    tiny.write_index(folder / "index", tiny.write_bundle(folder / "bundle", Bundle.open(bundle).manifest))
    return folder


class Sandbox:
    """A folder in which everything happens, and what lies there beside the folder that a command may write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given, self.out = root / "given", root / "out" / "target"
        (root / "precious").write_text("as it was")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Fail if anything outside `out` is new, gone or changed."""
        self.out.parent.mkdir(exist_ok=True)
        before = self._state()
        yield
        assert self._state() == before
        assert not Path("/tmp/embedship-x").exists()
        assert not any(path.is_symlink() for path in self.out.rglob("*"))
        shutil.rmtree(self.out.parent)
        shutil.rmtree(self.given)

    def _state(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in self.root.rglob("*"):
            if not path.is_relative_to(self.out.parent):
                status = path.lstat()
                found[str(path)] = (status.st_mode, status.st_size if not path.is_dir() else 0, status.st_mtime_ns)
        return found


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def mutate(folder: Path, draw: random.Random) -> None:
    """Change one to three things. Half of the manifests are sealed again, as whoever made the folder could."""
    for _ in range(draw.randint(1, 3)):
        draw.choice(MUTATIONS)(folder, draw)


def _flip_bits(folder: Path, draw: random.Random) -> None:
    path = _file(folder, draw)
    raw = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 4, 64]) if raw else 0):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    _rewrite(folder, path, bytes(raw), draw)


def _truncate(folder: Path, draw: random.Random) -> None:
    path = _file(folder, draw)
    raw = path.read_bytes()
    _rewrite(folder, path, raw[: draw.randint(0, len(raw))], draw)


def _extend(folder: Path, draw: random.Random) -> None:
    path = _file(folder, draw)
    _rewrite(folder, path, path.read_bytes() + draw.randbytes(draw.choice([1, 4_096])), draw)


def _link(folder: Path, draw: random.Random) -> None:
    path = _file(folder, draw)
    path.unlink()
    path.symlink_to(draw.choice(["/etc/passwd", "/dev/zero", "../../precious", path.name]))


def _pipe(folder: Path, draw: random.Random) -> None:
    path = _file(folder, draw)
    path.unlink()
    os.mkfifo(path)


def _remove(folder: Path, draw: random.Random) -> None:
    _file(folder, draw).unlink()


def _add(folder: Path, draw: random.Random) -> None:
    target = folder / draw.choice(["added", "onnx/added", "index.json.tmp"])
    if target.parent.is_dir():
        target.write_bytes(b"x")


def _rename(folder: Path, draw: random.Random) -> None:
    """Another name in the manifest, for the same file."""

    def change(found: dict[str, Any]) -> None:
        if found["files"]:
            old = draw.choice(sorted(found["files"]))
            found["files"][draw.choice(NAMES)] = found["files"].pop(old)

    _edit(folder, draw, change)


def _size(folder: Path, draw: random.Random) -> None:
    def change(found: dict[str, Any]) -> None:
        if found["files"]:
            record = found["files"][draw.choice(sorted(found["files"]))]
            record[draw.choice(["size", "sha256"])] = draw.choice([-1, 0, 2**62, "0" * 64, "../../x", "", None])

    _edit(folder, draw, change)


def _value(folder: Path, draw: random.Random) -> None:
    """Any value in the manifest, replaced by one of another type or range."""

    def change(found: dict[str, Any]) -> None:
        place: Any = found
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.8:
                place = place[key]
                continue
            place[key] = draw.choice(VALUES)
            return

    _edit(folder, draw, change)


def _repeat_key(folder: Path, draw: random.Random) -> None:
    """JSON with the same name twice."""
    path = _manifest(folder)
    if path is not None:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b'"files": {', b'"files": {}, "files": {', 1))


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    _flip_bits, _flip_bits, _truncate, _extend, _link, _pipe, _remove, _add, _rename, _size, _value, _value, _value,
    _repeat_key,
)  # fmt: skip


def _file(folder: Path, draw: random.Random) -> Path:
    """A regular file of the folder; the manifest if there is no other one left."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        (folder / "last").write_bytes(b"")
        return folder / "last"
    return draw.choice(files)


def _manifest(folder: Path) -> Path | None:
    found = [folder / name for name in (MANIFEST, manifest.MANIFEST)]
    return next((path for path in found if path.is_file() and not path.is_symlink()), None)


def _rewrite(folder: Path, path: Path, raw: bytes, draw: random.Random) -> None:
    path.write_bytes(raw)
    name = path.relative_to(folder).as_posix()
    if draw.random() < 0.7 and not name.endswith(PARSED_IN_C):

        def change(found: dict[str, Any]) -> None:
            if name in found["files"]:
                found["files"][name] = msgspec.to_builtins(SealedFile.from_path(path))
            if name == "tokenizer.json" and "tokenizer_sha256" in found:
                found["tokenizer_sha256"] = sha256_of(path)

        _edit(folder, draw, change, always=True)


def _edit(folder: Path, draw: random.Random, change: Callable[[dict[str, Any]], None], always: bool = False) -> None:
    """Change the manifest's JSON, and seal it again with the fingerprint and digest that fit."""
    path = _manifest(folder)
    try:
        found = msgspec.json.decode(path.read_bytes()) if path else None
        if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
            return
        change(found)
        kind: Any = manifest.IndexManifest if path and path.name == manifest.MANIFEST else BundleManifest
        assert path
        path.write_bytes(msgspec.json.encode(found))
        if always or draw.random() < 0.8:
            record = msgspec.json.decode(msgspec.json.encode(found), type=kind)
            if path.name == MANIFEST:
                record = _with_fingerprint(record)
            sealed.write(path, record)
    except (msgspec.MsgspecError, UnicodeError):
        return  # no longer a manifest: nothing to seal


def _with_fingerprint(record: BundleManifest) -> BundleManifest:
    mark = fingerprint(record.source, record.pipeline, record.tokenizer_sha256)
    return msgspec.structs.replace(record, fingerprint=mark)


class Folder:
    """A BundleSource that reads whatever lies in a folder, as a web server would."""

    pinned, authenticated = "test://folder", True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        path = Path(os.path.realpath(self._folder / name)) if "\0" not in name else self._folder
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise NotFound(f"no file {name!r}")
        with path.open("rb") as file:
            file.seek(offset)
            yield file.read(1_000_000)


class Meter:
    def begin(self, total: int) -> None: ...
    def advance(self, count: int, fetched: bool) -> None: ...


def attempt(work: Callable[[], object]) -> int:
    """The exit code that the command would end with. Any other exception is a stack trace, and fails the test."""
    try:
        work()
    except EmbedshipError as error:
        assert str(error).strip()  # noqa: PT017 - some raise none
        return error.exit_code
    return 0


def test_pull_of_mutated_bundles(right: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    draw, codes = random.Random(1), []
    options = PullOptions(retry=RetryPolicy(1))
    for _ in range(350):
        shutil.copytree(right / "bundle", sandbox.given)
        mutate(sandbox.given, draw)
        with sandbox.watched():
            codes.append(attempt(lambda: pull(Folder(sandbox.given), sandbox.out, options, Meter())))
    assert {0, 4} <= set(codes) <= {0, 1, 2, 4}
    assert codes.count(4) > len(codes) // 3


def test_serve_of_mutated_bundles(right: Path, sandbox: Sandbox) -> None:
    """Opened, hashed and judged by its golden texts, as at every start."""
    draw, codes = random.Random(2), []

    def start() -> None:
        opened = Bundle.open(sandbox.given)
        opened.verify()
        with Encoder.open(opened) as encoder:
            golden.check(encoder)

    for _ in range(350):
        shutil.copytree(right / "bundle", sandbox.given)
        mutate(sandbox.given, draw)
        with sandbox.watched():
            codes.append(attempt(start))
    assert {0, 4} <= set(codes)
    assert codes.count(4) > len(codes) // 3


def test_serve_of_mutated_indexes(right: Path, sandbox: Sandbox) -> None:
    """Opened and searched in every mode. Changed documents may be shown: the folder's author decides what is found."""
    draw, codes, model = random.Random(3), [], Bundle.open(right / "bundle")
    query = np.full((1, tiny.DIMENSION), tiny.DIMENSION**-0.5, dtype=np.float32)

    def start() -> None:
        with closing(FolderBackend.open(sandbox.given, model, writable=False)) as backend:
            for mode in SearchMode:
                backend.find(query, 10, SearchParams(mode, texts=["w1 w2"]))
            backend.find(query, 10, SearchParams(filter={"kind": "k1"}))

    for _ in range(300):
        shutil.copytree(right / "index", sandbox.given)
        mutate(sandbox.given, draw)
        with sandbox.watched():
            codes.append(attempt(start))
    assert {0, 4} <= set(codes)
    assert codes.count(4) > len(codes) // 3


def _break_header(index: Path) -> None:
    path = index / manifest.VECTORS
    path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))


def _remove_row(index: Path) -> None:
    with closing(sqlite3.connect(index / DOCUMENTS)) as connection, connection:
        connection.execute("DELETE FROM documents WHERE row = 5")


def _remove_last_row(index: Path) -> None:
    with closing(sqlite3.connect(index / DOCUMENTS)) as connection, connection:
        connection.execute("DELETE FROM documents WHERE row = (SELECT max(row) FROM documents)")


@pytest.mark.parametrize("damage", [_break_header, _remove_row, _remove_last_row])
def test_an_index_whose_files_do_not_fit_together_is_not_opened(
    right: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Each file has the hash in the manifest. A search could otherwise find a row without a document."""
    index = Path(shutil.copytree(right / "index", tmp_path / "index"))
    damage(index)
    manifest.write(index, manifest.read(index))
    with pytest.raises(UnsafeError):
        FolderBackend.open(index, Bundle.open(right / "bundle"), writable=False)


def test_facts_about_rows_that_do_not_exist_are_no_stack_trace(right: Path, tmp_path: Path) -> None:
    index = Path(shutil.copytree(right / "index", tmp_path / "index"))
    with closing(sqlite3.connect(index / DOCUMENTS)) as connection, connection:
        connection.execute("INSERT INTO facts VALUES ('kind', 'k1', 999)")
    manifest.write(index, manifest.read(index))
    query = np.full((1, tiny.DIMENSION), tiny.DIMENSION**-0.5, dtype=np.float32)
    opened = FolderBackend.open(index, Bundle.open(right / "bundle"), writable=False)
    with closing(opened) as backend, pytest.raises(BackendUnavailable, match="are damaged"):
        backend.find(query, 10, SearchParams(filter={"kind": "k1"}))


def test_a_tokenizer_that_is_not_utf8_is_refused(right: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(right / "bundle", tmp_path / "bundle"))
    (folder / TOKENIZER).write_bytes(b"\xff\xfe{}")
    with pytest.raises(UnsafeError, match="cannot be read"):
        Tokenizer.open(msgspec.structs.replace(Bundle.open(right / "bundle"), folder=folder))


RELOADS = 60


def test_reload_of_mutated_folders(right: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A running server: each reload is refused with 409, or taken, and the next request is answered."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "admin").write_text(KEY)
    plain = Settings(bundle=right / "bundle", admin_key_file=folder / "admin", streams=1, cache=folder / "cache")
    indexed = replace(plain, index=right / "index")
    draw, statuses = random.Random(4), []
    for settings, count in ((plain, RELOADS), (indexed, RELOADS // 10)):
        what = "index" if settings.index else "bundle"
        with ServerState.open(settings) as state:
            app = App(state)
            for _ in range(count):
                shutil.copytree(right / what, sandbox.given)
                mutate(sandbox.given, draw)
                with sandbox.watched():
                    statuses.append(asyncio.run(_reload(app, {what: str(sandbox.given)})))
    assert set(statuses) == {200, 409}


async def _reload(app: App, body: dict[str, str]) -> int:
    """Reload, then embed a text. Whatever was mutated, a server that answered before still does."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.post("/admin/reload", json=body, headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code in (200, 409), answer.text
        assert "the reason is in its log" not in answer.text, "a stack trace"
        embedded = await client.post("/embed", json={"inputs": "w1 w2"})
        assert embedded.status_code == 200, embedded.text
        return answer.status_code
