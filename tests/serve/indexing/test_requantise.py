"""Another kind of index over the same vectors, without the model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.errors import MismatchError, UnsafeError
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import IndexKind
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import VECTORS, read
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.indexing.requantise import requantise

from ..index.conftest import Corpus
from ..index.test_folder import flip


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def flat(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> Path:
    wishes = IndexOptions(IndexKind.FLAT, with_title=True, chunking=Chunking(tokens=48, overlap=4))
    build(encoder, "any", corpus(24), tmp_path / "flat", wishes, quiet)
    return tmp_path / "flat"


def test_the_same_vectors_in_another_kind(encoder: Encoder, flat: Path, tmp_path: Path) -> None:
    made = requantise(encoder.bundle, None, flat, tmp_path / "binary", IndexOptions(IndexKind.BINARY), quiet).manifest
    before = read(flat)
    assert (made.kind, made.fingerprint, made.variant) == (IndexKind.BINARY, before.fingerprint, before.variant)
    assert (made.chunking, made.with_title, made.documents) == (Chunking(tokens=48, overlap=4), True, 24)
    for name in (VECTORS, DOCUMENTS):
        assert made.files[name] == before.files[name]
    with (
        IndexFolder.open(flat, encoder.bundle) as first,
        IndexFolder.open(tmp_path / "binary", encoder.bundle) as second,
    ):
        queries = encoder.encode(["read a file", "sort a list"])
        assert first.index.exact(queries, 10).rows.tolist() == second.index.exact(queries, 10).rows.tolist()
        assert second.documents.fetch([3, 0]) == first.documents.fetch([3, 0])


def test_an_index_may_take_the_place_of_its_source(encoder: Encoder, flat: Path) -> None:
    requantise(encoder.bundle, None, flat, flat, IndexOptions(IndexKind.BINARY), quiet)
    with IndexFolder.open(flat, encoder.bundle) as opened:
        assert opened.index.kind is IndexKind.BINARY


def test_other_codes_are_packed_again(encoder: Encoder, flat: Path, tmp_path: Path) -> None:
    """The cure that the refusal of an index with old codes names."""
    requantise(encoder.bundle, None, flat, tmp_path / "binary", IndexOptions(IndexKind.BINARY), quiet)
    codes = msgspec.structs.replace(encoder.bundle.manifest.codes, binary_threshold=0.1)
    later = Bundle(encoder.bundle.folder, msgspec.structs.replace(encoder.bundle.manifest, codes=codes))
    with pytest.raises(MismatchError, match=r"Pack it again with `embedship index BUNDLE --from .*binary`"):
        IndexFolder.open(tmp_path / "binary", later)
    requantise(later, None, tmp_path / "binary", tmp_path / "again", IndexOptions(IndexKind.BINARY), quiet)
    IndexFolder.open(tmp_path / "again", later).close()


def test_vectors_of_another_model_are_refused(encoder: Encoder, flat: Path, tmp_path: Path) -> None:
    other = Bundle(encoder.bundle.folder, msgspec.structs.replace(encoder.bundle.manifest, fingerprint="0" * 64))
    with pytest.raises(MismatchError, match="`embedship index migrate` embeds the same documents"):
        requantise(other, None, flat, tmp_path / "out", IndexOptions(), quiet)


@pytest.mark.parametrize("name", [VECTORS, DOCUMENTS])
def test_vectors_that_were_changed_are_refused(encoder: Encoder, flat: Path, tmp_path: Path, name: str) -> None:
    flip(flat / name)
    with pytest.raises(UnsafeError, match=f"{name} has changed"):
        requantise(encoder.bundle, None, flat, tmp_path / "out", IndexOptions(), quiet)
    assert not (tmp_path / "out").exists()


def test_recall_is_measured_anew(encoder: Encoder, flat: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "read a file"}\n')
    wishes = IndexOptions(IndexKind.BINARY, queries=questions)
    recall = requantise(encoder.bundle, encoder, flat, tmp_path / "binary", wishes, quiet).manifest.recall
    assert recall is not None
    assert (recall.source, recall.queries) == ("questions.jsonl", 1)
