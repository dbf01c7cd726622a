"""`embedship backup` and `restore`: real folders, while something writes into them."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.serve.commands import backup
from embedship.serve.index import manifest
from embedship.serve.index.folder import IndexFolder


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "deep").mkdir(parents=True)
    (folder / "monitor.json").write_text('{"seen": 1}')
    (folder / "deep" / "more").write_bytes(bytes(range(256)))
    (folder / ".half-written").write_text("not yet")
    return folder


def test_an_index_and_a_state_come_back(
    bundle: Path, index_folder: Path, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = told(capsys, "backup", index_folder, state, "--to", tmp_path / "copies")
    assert code == 0
    assert made["folders"] == ["index", "state"]
    copy = Path(made["backup"])
    code, found = told(capsys, "restore", copy, "--folder", "index", "--out", tmp_path / "back")
    assert code == 0
    assert found["files"] == len(list(index_folder.iterdir()))
    manifest.verify(tmp_path / "back", manifest.read(tmp_path / "back"))
    with IndexFolder.open(tmp_path / "back", Bundle.open(bundle)) as index:
        assert index.index.size == 60
    assert told(capsys, "restore", copy, "--folder", "state", "--out", tmp_path / "state-back")[0] == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "state-back").rglob("*") if path.is_file()}
    assert files == {"monitor.json": b'{"seen": 1}', "more": bytes(range(256))}, "what was half written is left out"


def test_a_damaged_copy_is_not_restored(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, made = told(capsys, "backup", state, "--to", tmp_path / "copies")
    (Path(made["backup"]) / "state" / "deep" / "more").write_bytes(bytes(256))
    code, found = told(capsys, "restore", made["backup"], "--out", tmp_path / "back")
    assert code == 4
    assert "state/deep/more has changed" in found["error"]
    assert not (tmp_path / "back").exists()


def test_a_folder_that_changes_is_copied_again(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index is swapped while it is copied, once: the copy is of the new one alone."""
    copy, copies = shutil.copyfile, []

    def swapping(source: Path, target: Path) -> Path:
        copies.append(source)
        if len(copies) == 1:
            for name in ("monitor.json", "deep/more"):
                (tmp_path / "new").write_text("second")
                os.replace(tmp_path / "new", state / name)
        return Path(copy(source, target))

    monkeypatch.setattr(backup, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(shutil, "copyfile", swapping)
    code, made = told(capsys, "backup", state, "--to", tmp_path / "copies")
    assert code == 0
    assert len(copies) == 4, "two files, twice"
    found = {path.read_text() for path in (Path(made["backup"]) / "state").rglob("*") if path.is_file()}
    assert found == {"second"}


def test_one_that_never_keeps_still_is_said(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_WAIT_SECONDS", 0.0)
    copy, number = shutil.copyfile, count(1)

    def meanwhile(source: Path, target: Path) -> Path:
        (state / "monitor.json").write_text("x" * next(number))
        return Path(copy(source, target))

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    code, found = told(capsys, "backup", state, "--to", tmp_path / "copies")
    assert code == 1
    assert "changed while it was copied" in found["error"]
    assert list((tmp_path / "copies").iterdir()) == [], "whole or not at all"


def test_old_copies_go_and_nothing_else(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = tmp_path / "copies"
    (copies / "20200101T000000Z").mkdir(parents=True)
    (copies / "mine").mkdir()
    made = [Path(told(capsys, "backup", state, "--to", copies, "--keep", "2")[1]["backup"]) for _ in range(3)]
    assert {path.name for path in copies.iterdir()} == {"20200101T000000Z", "mine", made[1].name, made[2].name}, (
        "a folder without our manifest is none of ours"
    )


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_copy_just_made_is_never_removed(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: int
) -> None:
    """The clock was ahead once, so it is the oldest by its name."""
    copies, years = tmp_path / "copies", (2097, 2098, 2099)
    for year in years:
        _, made = told(capsys, "backup", state, "--to", copies)
        Path(made["backup"]).rename(copies / f"{year}0101T000000Z")
    code, made = told(capsys, "backup", state, "--to", copies, "--keep", keep)
    assert code == 0
    ahead = [f"{year}0101T000000Z" for year in years]
    split = len(years) - (keep - 1)
    assert made["removed"] == ahead[:split]
    assert {path.name for path in copies.iterdir()} == {Path(made["backup"]).name, *ahead[split:]}
    assert told(capsys, "restore", made["backup"], "--out", tmp_path / "back")[0] == 0


def test_wrong_usage(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / "state"
    other.mkdir(parents=True)
    for folders, to in (
        ([state, other], tmp_path / "c"),
        ([tmp_path / "none"], tmp_path / "c"),
        ([state], state / "c"),
    ):
        assert told(capsys, "backup", *folders, "--to", to)[0] == 2
    _, made = told(capsys, "backup", state, tmp_path / "other", "--to", tmp_path / "c")
    assert told(capsys, "restore", made["backup"], "--out", tmp_path / "x")[0] == 2, "which one?"
    assert told(capsys, "restore", made["backup"], "--out", tmp_path / "x", "--folder", "y")[0] == 2
    assert told(capsys, "restore", made["backup"], "--out", state, "--folder", "state")[0] == 2, "it is there already"
    assert told(capsys, "restore", tmp_path / "other", "--out", tmp_path / "x")[0] == 2, "no backup"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(state: Path) -> None:
    """As root, who runs tests in containers, nothing is closed: so the error is the walk's own."""
    (state / "lost+found").mkdir()
    assert set(backup._seen(state)) == {"monitor.json", "deep/more"}
    with pytest.raises(FileNotFoundError):
        backup._seen(state / "none")


@pytest.mark.parametrize("outside", ["index/{target}", "index/../profile", "../profile", "{target}", "index/./a"])
def test_a_copy_that_names_files_outside_writes_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outside: str
) -> None:
    """Sealed by the attacker: the digest is no secret. `index//home/x` is an absolute path once `index/` is cut off."""
    target = tmp_path / "home" / "bashrc"
    target.parent.mkdir()
    target.write_text("mine")
    copy = tmp_path / "copy"
    (copy / "index").mkdir(parents=True)
    name = outside.format(target=target)
    source = Path(f"{copy}/{name}")  # where the name leads before `index/` is cut off
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("evil")
    sealed.write(
        copy / "backup.json", backup.BackupManifest(1, "2026-01-01", ("index",), {name: SealedFile.of(source)})
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code, found = told(capsys, "restore", copy, "--out", tmp_path / "out" / "index")
    assert code == 4
    assert "outside" in found["error"]
    assert target.read_text() == "mine"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_copy_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy").mkdir()
    sealed.write(tmp_path / "copy" / "backup.json", backup.BackupManifest(1, "2026-01-01", (), {}))
    code, found = told(capsys, "restore", tmp_path / "copy", "--out", tmp_path / "out")
    assert code == 4
    assert "lists no folder" in found["error"]


def test_a_private_state_stays_private(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The monitor writes it for its owner's eyes: it may hold the texts of queries."""
    (state / "monitor.json").chmod(0o600)
    (state / "deep").chmod(0o750)
    state.chmod(0o700)
    _, made = told(capsys, "backup", state, "--to", tmp_path / "copies")
    assert told(capsys, "restore", made["backup"], "--out", tmp_path / "back")[0] == 0
    for place in (Path(made["backup"]) / "state", tmp_path / "back"):
        modes = [path.stat().st_mode & 0o777 for path in (place, place / "monitor.json", place / "deep")]
        assert modes == [0o700, 0o600, 0o750]
