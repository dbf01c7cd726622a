"""Every parser of bytes that somebody else may have written: a clear error or a right value, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.errors import EmbedshipError
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.serve.commands import backup
from embedship.serve.documents import store
from embedship.serve.documents.filters import Filter
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import Document
from embedship.serve.index import manifest
from embedship.serve.search.address import Address, parse_location
from embedship.transfer.address import TrustOptions, open_source
from embedship.transfer.oci import OciSource
from embedship.transfer.registry import ImageReference

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)

json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def refuses(parse: Callable[[], object]) -> None:
    """Whatever it does, no other exception leaves it."""
    try:
        parse()
    except EmbedshipError as error:
        assert str(error)  # noqa: PT017 - most raise none


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "bundle": ("bundle.json", Bundle.open),
    "index": ("index.json", manifest.read),
    "backup": (backup.MANIFEST, lambda path: sealed.read(path / backup.MANIFEST, backup.BackupManifest, 1, "backup")),
}


@pytest.mark.parametrize("kind", READERS)
@QUICK
@given(raw=st.binary(max_size=200) | json.map(msgspec.json.encode))
def test_manifests_of_any_bytes(folder: Path, kind: str, raw: bytes) -> None:
    name, read = READERS[kind]
    (folder / name).write_bytes(raw)
    refuses(lambda: read(folder))


@QUICK
@given(changes=st.dictionaries(st.sampled_from(["format", "files", "variants", "pipeline", "source", "x"]), json))
def test_a_bundle_s_manifest_with_fields_changed(folder: Path, bundle: Path, changes: dict[str, Any]) -> None:
    found = msgspec.json.decode((bundle / "bundle.json").read_bytes())
    (folder / "bundle.json").write_bytes(msgspec.json.encode({**found, **changes}))
    refuses(lambda: Bundle.open(folder))


@QUICK
@given(wanted=st.dictionaries(st.text(max_size=8), json, max_size=5))
def test_filters(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / "documents.sqlite"
    if not path.exists():
        store.write(path, [(1, Document("a", "text", None, {"a": 1, "": "x"}))])
    try:
        known = msgspec.json.decode(msgspec.json.encode(wanted), type=Filter)
    except msgspec.MsgspecError:
        return
    with closing(KeywordIndex.open(path, 1)) as words:
        refuses(lambda: words.allowed(known) if known else None)
        refuses(lambda: words.search(["text"], 1, known) if known else None)
        refuses(lambda: words.allowed({"a": next(iter(known.values()))}) if known else None)


@QUICK
@given(
    text=st.text(max_size=60)
    | st.from_regex(r"(milvus|oci|https?|hf|s3)(\+tls)?://?[\w.:@/?#\[\]-]{0,30}", fullmatch=True)
)
def test_addresses(text: str) -> None:
    for parse in (
        Address.parse,
        parse_location,
        ImageReference.parse,
        lambda text: open_source(text, TrustOptions(None, False)),
    ):
        refuses(lambda parse=parse: parse(text))  # type: ignore[misc]


@QUICK
@given(
    raw=st.binary(max_size=100)
    | json.map(msgspec.json.encode)
    | json.map(lambda x: msgspec.json.encode({"layers": [x]}))
)
def test_manifests_of_registries(raw: bytes) -> None:
    source = OciSource("127.0.0.1:9/team/model:v1", False)
    source._registry.manifest = lambda _: raw  # type: ignore[method-assign]
    refuses(lambda: next(source.read("bundle.json", 0)))


NAMES = [
    "state/a",
    "state/b/c",
    "state//tmp/x",
    "state/../x",
    "../x",
    "/etc/x",
    "state/./a",
    "state/a\0",
    "",
    "state",
    "x" * 300,
]


def test_a_thousand_mutated_copies_are_restored_inside_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, sizes, hashes, links and pipes, sealed anew by whoever changed them: nothing is written beside --out."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand copies, and none of them is to be kept
    draw, copy, out = random.Random(25), tmp_path / "in" / "copy", tmp_path / "out" / "state"
    codes = set()
    for number in range(1_000):
        shutil.rmtree(tmp_path / "in", ignore_errors=True)
        _mutated(copy, draw)
        before = set(tmp_path.rglob("*"))
        code = run(["restore", str(copy), "--out", str(out)])
        told = capsys.readouterr().err
        codes.add(code)
        assert code in (0, 2, 4), (number, code, told)
        assert "Traceback" not in told
        written = set(tmp_path.rglob("*")) - before
        assert all(path.is_relative_to(out) or path == out.parent for path in written), (number, written)
        assert all(not path.is_symlink() for path in written)
        shutil.rmtree(out.parent, ignore_errors=True)
    assert codes >= {0, 4}, "some are right, and some are not"


def _mutated(copy: Path, draw: random.Random) -> None:
    (copy / "state" / "b").mkdir(parents=True)
    files = {}
    for name in draw.sample(NAMES, draw.randint(1, 3)) if draw.random() < 0.6 else NAMES[:2]:
        path = Path(f"{copy}/{name}")
        content = draw.randbytes(draw.randint(0, 30))
        free = "\0" not in name and len(name) < 256 and not path.is_dir() and not path.is_fifo()  # else: opening waits
        if free and path.resolve().is_relative_to(copy.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            match draw.randint(0, 12):
                case 0:
                    path.unlink()
                    path.symlink_to("/etc/passwd")
                case 1:
                    path.unlink()
                    os.mkfifo(path)
        regular = "\0" not in name and len(name) < 256 and not path.is_symlink() and path.is_file()
        files[name] = SealedFile.from_path(path) if regular else SealedFile(sha256="0" * 64, size=draw.randint(-1, 40))
        if draw.random() < 0.1:
            files[name] = SealedFile(sha256=draw.choice(["", "x", "0" * 64]), size=draw.randint(-5, 99))
    folders = draw.choice([("state",)] * 6 + [(), ("..",), ("",), ("state", "b"), ("/",)])
    sealed.write(copy / backup.MANIFEST, backup.BackupManifest(1, "now", folders, files))
    if draw.random() < 0.1:
        raw = bytearray((copy / backup.MANIFEST).read_bytes())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        (copy / backup.MANIFEST).write_bytes(raw)
