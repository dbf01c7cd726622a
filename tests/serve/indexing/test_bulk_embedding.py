"""Documents embedded by encoders that may be elsewhere: the index is the one of an embedding in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedship.encoder import Encoder
from embedship.serve.bulk.shards import EncoderPool, LocalEncoderPool
from embedship.serve.documents.chunking import Chunking
from embedship.serve.indexing.build import BuildResult, BuildStep, IndexOptions, build

from ..index.conftest import Corpus


@pytest.mark.parametrize(
    "wishes", [IndexOptions(with_title=True), IndexOptions(chunking=Chunking(tokens=20, overlap=0))]
)
def test_the_same_bytes_lie_there_and_nothing_else(
    encoder: Encoder, corpus: Corpus, tmp_path: Path, wishes: IndexOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more documents than are embedded at once, one of them longer than the model reads."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    lines = corpus(520)
    lines.write_text(lines.read_text() + json.dumps({"id": "long", "text": "a word " * 400}) + "\n")
    told: list[tuple[BuildStep, int, int]] = []

    def made(name: str, encoders: EncoderPool | None) -> BuildResult:
        told.clear()
        return build(encoder, "any", lines, tmp_path / name, wishes, lambda *step: told.append(step), encoders)

    built = made("here", None), made("elsewhere", LocalEncoderPool(encoder))
    here, elsewhere = (
        {path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("here", "elsewhere")
    )
    assert here == elsewhere
    assert built[0].manifest == built[1].manifest
    assert built[1].seconds > 0
    assert bool(built[1].manifest.truncated.texts) == (wishes.chunking is None)
    rows = built[1].manifest.size
    embedded = [done for step, done, total in told if step is BuildStep.EMBED and total == rows]
    assert (embedded, embedded[0], embedded[-1]) == (sorted(embedded), 0, rows)
    assert built[1].manifest.truncated.worst_id == (None if wishes.chunking else "long")
