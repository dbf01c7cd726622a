from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship.commands import main
from embedship.errors import UsageError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint
from embedship.files.sealed import sha256_of

from ..conftest import edit, tail

TEXTS = ["read the file", "a date"]


def open_(folder: Path, **how: Any) -> EmbedderCheckpoint:
    with open_checkpoint(folder, OpenOptions(**how)) as source:
        return EmbedderCheckpoint.open(source)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
def test_a_plain_folder_pools_as_it_is_told(checkpoint: Any, mode: str) -> None:
    saved = checkpoint(pooling=mode, tail=tail())
    before = sorted((saved.parent / "plain").iterdir())
    ours = open_(saved.parent / "plain", pooling=mode, normalize=True)
    np.testing.assert_allclose(ours.encode(TEXTS), EmbedderCheckpoint.open(saved).encode(TEXTS), atol=1e-6)
    assert (ours.pipeline.pooling, ours.pipeline.normalised, ours.source.name) == (mode, True, "plain")
    assert sorted((saved.parent / "plain").iterdir()) == before, "the checkpoint itself is never written to"


def test_a_pooling_left_behind_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    """The folder lost its modules.json, and is opened through links."""
    folder = Path(shutil.copytree(tiny.parent / "plain", tmp_path / "plain"))
    shutil.copytree(tiny / "1_Pooling", folder / "1_Pooling")
    before = hashes(folder)
    assert "1_Pooling/config.json" in before
    assert open_(folder, pooling="cls").pipeline.pooling == "cls"
    assert hashes(folder) == before
    assert main.run(["export", str(folder), "--pooling", "cls", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert hashes(folder) == before


def hashes(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_without_normalize_rows_keep_their_length(tiny: Path) -> None:
    assert not open_(tiny.parent / "plain", pooling="mean").pipeline.normalised


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no modules.json.*--pooling mean, cls, max or lasttoken"),
        ({"pooling": "average"}, "--pooling 'average' is unknown: use one of mean, cls, max, lasttoken"),
        ({"normalize": True}, "--normalize only with --pooling"),
    ],
)
def test_what_is_not_said_or_said_wrongly_is_refused(tiny: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_(tiny.parent / "plain", **options)


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"normalize": True}])
def test_a_folder_that_pools_by_itself_is_not_told_how(tiny: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"leave --(pooling|normalize) out"):
        open_(tiny, **options)


def test_a_width_that_is_not_said_is_refused(tiny: Path, tmp_path: Path) -> None:
    edit(tmp_path / "config.json", model_type="bert")
    with pytest.raises(UsageError, match=r"config.json does not say how wide") as refusal:
        open_(tmp_path, pooling="mean")
    assert str(tmp_path) in str(refusal.value)


def test_a_cross_encoder_without_its_task_is_told_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cross"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    assert main.run(["export", str(folder), "--out", str(tmp_path / "bundle")]) == 2
    assert (
        "is a cross-encoder: it scores pairs and has no vector per text. Add --task rerank" in capsys.readouterr().err
    )
