from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.export.workshop import workshop


def bundle_like(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(content)
    return folder


def test_what_ends_well_lands_at_the_target_and_others_can_read_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "bundle"
    with workshop(target, force=False) as folder:
        assert not target.exists()
        (folder / "file").touch(mode=0o600)
    assert sorted(p.name for p in target.parent.iterdir()) == ["bundle"]
    assert (target.stat().st_mode & 0o055, (target / "file").stat().st_mode & 0o044) == (0o055, 0o044)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with workshop(tmp_path / "bundle", force=False) as folder:
            (folder / "file").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_nothing_either(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), workshop(tmp_path / "bundle", force=False):
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("force", [False, True])
def test_nothing_but_a_bundle_is_ever_replaced(tmp_path: Path, force: bool) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(UsageError, match="exists and is no bundle"), workshop(precious, force):
        pass
    assert (precious / "thesis.tex").exists()


def test_a_bundle_with_somebody_elses_file_in_it_is_not_replaced(tmp_path: Path) -> None:
    target = bundle_like(tmp_path / "bundle", '{"files": {"tokenizer.json": {}}}')
    (target / "tokenizer.json").touch()
    with workshop(target, force=True) as folder:
        (folder / "bundle.json").write_text('{"files": {}}')
    (target / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds more than a bundle"), workshop(target, force=True):
        pass
    assert (target / "thesis.tex").exists()


def test_a_bundle_is_replaced_when_forced_and_kept_when_the_export_fails(tmp_path: Path) -> None:
    target = bundle_like(tmp_path / "bundle", "old")
    with pytest.raises(UsageError, match="--force"), workshop(target, force=False):
        pass
    with pytest.raises(ValueError, match="half"), workshop(target, force=True):
        raise ValueError("half way")
    assert (target / "bundle.json").read_text() == "old"
    with workshop(target, force=True) as folder:
        (folder / "bundle.json").write_text("new")
    assert (target / "bundle.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with workshop(tmp_path / "bundle", force=False) as folder:
        (folder / "file").touch()
    assert (tmp_path / "bundle" / "file").exists()
