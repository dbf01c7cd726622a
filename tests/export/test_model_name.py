from __future__ import annotations

from pathlib import Path

import pytest

from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.folder import model_name


@pytest.mark.parametrize(
    ("folder", "card", "name"),
    [
        ("model", "---\ntags:\n- x\n# a comment\n---\n\n# all-MiniLM-L6-v2\nThis is a model.\n", "all-MiniLM-L6-v2"),
        ("checkpoint-1500", "# BAAI/bge-small-en\n", "BAAI/bge-small-en"),
        ("model", "---\nmodel_name: 'my-model'\n---\n# SentenceTransformer based on BERT\n", "my-model"),
        ("model", "# SentenceTransformer based on BERT\n\n# Usage\n", "model"),
        ("model", "# Model\n", "model"),
        ("model", "no title\n", "model"),
        ("all-MiniLM-L6-v2", "# another\n", "all-MiniLM-L6-v2"),
        ("model", None, "model"),
        ("best_model", "# my-model\n", "my-model"),
        ("final-checkpoint-1500", "# my-model\n", "my-model"),
        ("bestbuy-model", "# my-model\n", "bestbuy-model"),
        ("modelling", "# my-model\n", "modelling"),
    ],
)
def test_a_folder_whose_name_says_nothing_has_that_of_its_card(
    folder: str, card: str | None, name: str, tmp_path: Path
) -> None:
    path = tmp_path / folder
    path.mkdir()
    if card is not None:
        (path / "README.md").write_text(card)
    assert model_name(path) == name


def test_the_real_model_is_called_by_its_card(minilm: Path) -> None:
    assert minilm.name == "model"
    assert EmbedderCheckpoint.open(minilm).source.name == "all-MiniLM-L6-v2"
    assert EmbedderCheckpoint.open(minilm, "another").source.name == "another"
