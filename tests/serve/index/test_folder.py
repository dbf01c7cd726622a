from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.bundle import Bundle
from embedship.codes import Int8Scale
from embedship.encoder import Encoder
from embedship.errors import MismatchError, MissingExtra, UnsafeError, UsageError
from embedship.files import sealed
from embedship.serve.index import IndexKind, manifest, recipe
from embedship.serve.index.folder import IndexFolder
from embedship.serve.indexing import build

from .conftest import Texts, options_for


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def built(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[IndexKind, Path]:
    """An index of each kind over the same thirty documents."""
    folder = tmp_path_factory.mktemp("built")
    lines = folder / "corpus.jsonl"
    lines.write_text("".join(f'{{"id": "{n}", "text": "document number {n}", "n": {n}}}\n' for n in range(30)))
    for kind in IndexKind:
        build.build(encoder, "any", lines, folder / kind, options_for(kind), quiet)
    return {kind: folder / kind for kind in IndexKind}


@pytest.fixture
def index(built: dict[IndexKind, Path], kind: IndexKind, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built[kind], tmp_path / "index"))


def test_round_trip(index: Path, kind: IndexKind, encoder: Encoder) -> None:
    with IndexFolder.open(index, encoder.bundle) as opened:
        assert (opened.index.kind, opened.index.size, opened.documents.size) == (kind, 30, 30)
        queries = encoder.encode(["document number 7", "document number 21"], prompt_name=opened.manifest.query_prompt)
        first = opened.index.search(queries, 3).rows[:, 0]
        assert [document.id for document in opened.documents.fetch(first.tolist())] == ["7", "21"]
        assert opened.documents.fetch([21])[0].metadata == {"n": 21}


def changed(bundle: Bundle, **fields: object) -> Bundle:
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, **fields))


def test_another_model(index: Path, encoder: Encoder) -> None:
    with pytest.raises(MismatchError, match=r"but this bundle has model 000000000000: .* again"):
        IndexFolder.open(index, changed(encoder.bundle, fingerprint="0" * 64))


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"query": "q: ", "document": ""}, r"the query prompt 'query' \(''\), this bundle uses 'query' \('q: '\)"),
        ({"query": "", "document": "d: "}, r"the document prompt 'document' \(''\), .* 'document' \('d: '\)"),
        ({"query": "", "passage": ""}, r"the document prompt 'document' \(''\), this bundle uses 'passage' \(''\)"),
    ],
)
def test_other_prompts(index: Path, encoder: Encoder, prompts: dict[str, str], says: str) -> None:
    """The fingerprint covers the prompts, but a bundle with a false fingerprint is detected also."""
    pipeline = msgspec.structs.replace(encoder.bundle.manifest.pipeline, prompts=prompts)
    with pytest.raises(MismatchError, match=f"{says}: every score would be wrong. Build the index again"):
        IndexFolder.open(index, changed(encoder.bundle, pipeline=pipeline))


def test_a_prompt_that_was_reworded(index: Path, encoder: Encoder) -> None:
    found = manifest.read(index)
    reworded = manifest.IndexPrompts(document="", query="Query: ")
    sealed.write(index / manifest.MANIFEST, msgspec.structs.replace(found, prompts=reworded))
    with pytest.raises(MismatchError, match=r"the query prompt 'query' \('Query: '\), .* uses 'query' \(''\)"):
        IndexFolder.open(index, encoder.bundle)


@pytest.mark.parametrize("kind", [IndexKind.BINARY], indirect=True)
def test_other_codes(index: Path, encoder: Encoder) -> None:
    codes = encoder.bundle.manifest.codes
    wider = tuple(Int8Scale(tuple(2 * x for x in scale.scale)) for scale in codes.int8)
    for other in (msgspec.structs.replace(codes, int8=wider), msgspec.structs.replace(codes, binary_threshold=0.1)):
        with pytest.raises(MismatchError, match="other int8 ranges or another binary threshold"):
            IndexFolder.open(index, changed(encoder.bundle, codes=other))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_link(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / path.name))


DAMAGE = [
    (flip, r"has changed \(sha256\)"),
    (cut, r"has \d+ bytes, not \d+"),
    (Path.unlink, "is missing"),
    (replace_by_link, "is a symbolic link"),
]


@pytest.mark.parametrize("kind", [IndexKind.BINARY], indirect=True)
@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
@pytest.mark.parametrize("name", sorted(manifest.files(recipe.make_recipe(IndexKind.BINARY, 30, 384))))
def test_a_damaged_file_is_named(
    index: Path, encoder: Encoder, name: str, damage: Callable[[Path], object], reason: str
) -> None:
    damage(index / name)
    with pytest.raises(UnsafeError, match=f"{name} {reason}.*: build it again"):
        IndexFolder.open(index, encoder.bundle)


def test_an_additional_file_is_refused(index: Path, encoder: Encoder) -> None:
    (index / "evil.faiss").write_bytes(b"")
    with pytest.raises(UnsafeError, match=r"evil\.faiss was added"):
        IndexFolder.open(index, encoder.bundle)


def reseal(index: Path, **changes: object) -> None:
    """Rewrite the manifest with a matching digest, as an attacker who knows the format would."""
    changed = sealed.seal(msgspec.structs.replace(manifest.read(index), **changes))
    (index / manifest.MANIFEST).write_bytes(msgspec.json.encode(changed))


@pytest.mark.parametrize(
    ("name", "content"),
    [("stage.faiss", b"IxFI rubbish"), ("stage.faiss", b""), ("vectors.f16.npy", b"\x93NUMPY rubbish")],
)
@pytest.mark.parametrize("kind", [IndexKind.FLAT], indirect=True)
def test_a_file_with_invalid_content_and_a_valid_hash(index: Path, encoder: Encoder, name: str, content: bytes) -> None:
    (index / name).write_bytes(content)
    reseal(index, files=manifest.write(index, manifest.read(index)).files)
    with pytest.raises(UnsafeError, match=f"{name} is damaged"):
        IndexFolder.open(index, encoder.bundle)


@pytest.mark.parametrize("kind", [IndexKind.FLAT], indirect=True)
def test_vectors_of_another_shape_with_a_valid_hash(index: Path, encoder: Encoder) -> None:
    np.save(index / "vectors.f16.npy", np.zeros((29, 384), np.float16))
    reseal(index, files=manifest.write(index, manifest.read(index)).files)
    with pytest.raises(UnsafeError, match=r"float16 \(29, 384\); expected float16 \(30, 384\)"):
        IndexFolder.open(index, encoder.bundle)


@pytest.mark.parametrize("kind", [IndexKind.HNSW_SQ8], indirect=True)
def test_an_index_that_does_not_match_its_recipe(index: Path, encoder: Encoder) -> None:
    described = manifest.read(index)
    reseal(index, recipe=msgspec.structs.replace(described.recipe, factory="HNSW16,RaBitQ"))
    with pytest.raises(UnsafeError, match=r"stage\.faiss has \('IndexHNSWSQ', 30, 384\)"):
        IndexFolder.open(index, encoder.bundle)


def test_a_size_that_does_not_match_the_files(index: Path, encoder: Encoder) -> None:
    reseal(index, size=29)
    with pytest.raises(UnsafeError, match=r"30 rows numbered 0 to 29, but index\.json says 29 from 0"):
        IndexFolder.open(index, encoder.bundle)


def test_a_file_outside_the_folder(index: Path, encoder: Encoder) -> None:
    files = manifest.read(index).files
    reseal(index, files={"../../etc/passwd": files["documents.sqlite"], **files})
    with pytest.raises(UnsafeError, match="names files outside the index"):
        IndexFolder.open(index, encoder.bundle)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"size": 30', b'"size": 31', "its digest does not match"),
        (b'"size": 30', b'"size": "30"', r"damaged: Expected `int`, got `str` - at `\$.size`"),
        (b'"size": 30', b'"seize": 30', "damaged: Object contains unknown field `seize`"),
        (b"{", b"", "damaged: Expected `object`, got `str`"),
    ],
)
def test_a_changed_manifest(index: Path, encoder: Encoder, old: bytes, new: bytes, reason: str) -> None:
    path = index / manifest.MANIFEST
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(UnsafeError, match=reason):
        IndexFolder.open(index, encoder.bundle)


def test_another_format(index: Path, encoder: Encoder) -> None:
    (index / manifest.MANIFEST).write_bytes(b'{"format": 1}')
    with pytest.raises(UsageError, match="has format 1; this embedship reads format 3"):
        IndexFolder.open(index, encoder.bundle)


def test_no_index(tmp_path: Path, encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"is not an index: index\.json cannot be read \(No such file"):
        IndexFolder.open(tmp_path, encoder.bundle)


def test_without_faiss(index: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for name in ("faiss_library", "factory", "flat", "staged", "stage", "kinds"):
        monkeypatch.delitem(sys.modules, f"embedship.serve.index.{name}")
    with pytest.raises(MissingExtra, match=r"faiss is not installed.*pip install -c constraints.txt '\.\[cpu\]'"):
        IndexFolder.open(index, encoder.bundle)


def test_nothing_loads_faiss_before_an_index_is_opened() -> None:
    code = "import sys, embedship.serve.index.folder, embedship.serve.commands.index; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_an_open_index_outlives_its_folder(index: Path, encoder: Encoder, texts: Texts) -> None:
    with IndexFolder.open(index, encoder.bundle) as opened:
        before = opened.index.search(texts.queries, 5).rows
        shutil.rmtree(index)
        np.testing.assert_array_equal(opened.index.search(texts.queries, 5).rows, before)
        assert opened.index.exact(texts.queries, 5).rows.shape == before.shape
        assert opened.documents.fetch([29])[0].id == "29"
