from __future__ import annotations

from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.export.output_folder import output_folder


def bundle_like(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(content)
    return folder


@pytest.mark.parametrize("force", [False, True])
def test_nothing_but_a_bundle_is_ever_replaced(tmp_path: Path, force: bool) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(UsageError, match="exists and is not a bundle"), output_folder(precious, force):
        pass
    assert (precious / "thesis.tex").exists()


def test_a_bundle_with_somebody_elses_file_in_it_is_not_replaced(tmp_path: Path) -> None:
    target = bundle_like(tmp_path / "bundle", '{"files": {"tokenizer.json": {}}}')
    (target / "tokenizer.json").touch()
    with output_folder(target, force=True) as folder:
        (folder / "bundle.json").write_text('{"files": {}}')
    (target / "thesis.tex").touch()
    with pytest.raises(UsageError, match="contains more than a bundle"), output_folder(target, force=True):
        pass
    assert (target / "thesis.tex").exists()


def test_a_bundle_is_replaced_when_forced_and_kept_when_the_export_fails(tmp_path: Path) -> None:
    target = bundle_like(tmp_path / "bundle", "old")
    with pytest.raises(UsageError, match="--force"), output_folder(target, force=False):
        pass
    with pytest.raises(ValueError, match="half"), output_folder(target, force=True):
        raise ValueError("half way")
    assert (target / "bundle.json").read_text() == "old"
    with output_folder(target, force=True) as folder:
        (folder / "bundle.json").write_text("new")
    assert (target / "bundle.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
