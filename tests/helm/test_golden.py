"""Each scenario renders its golden file, so a review shows every change of the manifests."""

from __future__ import annotations

from pathlib import Path

from .golden import FOLDER, golden


def test_what_is_rendered_is_in_step_with_the_files(helm: Path) -> None:
    made = golden(helm)
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, f"run `python -m tests.helm.golden`, and look at what {name} shows"
