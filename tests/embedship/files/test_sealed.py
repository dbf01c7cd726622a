from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.sealed import SealedFile


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    text: str
    digest: str = ""


def read(path: Path) -> Note:
    return sealed.read(path, Note, 1, "note")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = sealed.write(tmp_path / "note.json", Note(1, "text"))
    assert written.digest
    assert read(tmp_path / "note.json") == written


@pytest.mark.parametrize("at", range(0, 90, 3))
def test_any_flipped_bit_is_noticed(tmp_path: Path, at: int) -> None:
    path = tmp_path / "note.json"
    sealed.write(path, Note(1, "text"))
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises((UnsafeError, UsageError)):  # a flipped format number is another format
        read(path)


def test_a_manifest_that_is_a_pipe_or_a_link_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UnsafeError, match=f"{name} is no regular file"):
            read(tmp_path / name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[2] / "outside"))


def _link_the_folder(path: Path) -> None:
    path.parent.symlink_to(path.parent.rename(path.parents[2] / "outside"))


def _file_for_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "onnx" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path.parents[1]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, "onnx/model.onnx is missing"),
        (lambda p: p.write_bytes(b"Weights"), "onnx/model.onnx has changed (sha256)"),
        (lambda p: p.write_bytes(b"weight"), "onnx/model.onnx has 6 bytes, not 7"),
        (_pipe, "onnx/model.onnx is no regular file"),
        (_a_folder, "onnx/model.onnx is no regular file"),
        (_link, "onnx/model.onnx is a symbolic link"),
        (_link_the_folder, "onnx is a symbolic link"),
        (_file_for_folder, "onnx/model.onnx is missing"),
    ],
)
def test_a_file_that_is_not_what_it_was(folder: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    path = folder / "onnx" / "model.onnx"
    listed = {"onnx/model.onnx": SealedFile.of(path)}
    assert sealed.problems(folder, listed, listed) == []
    spoil(path)
    assert sealed.problems(folder, listed, listed) == [sentence]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    listed = {"onnx/model.onnx": SealedFile.of(path)}
    path.chmod(0)
    assert sealed.problems(folder, listed, listed) == ["onnx/model.onnx cannot be read (Permission denied)"]


def test_strangers_of_every_kind(folder: Path) -> None:
    (folder / "file").touch()
    os.mkfifo(folder / "onnx" / "pipe")
    (folder / "link").symlink_to(folder / "onnx", target_is_directory=True)
    (folder / "empty").mkdir()
    assert sealed.unlisted_files(folder, ["onnx/model.onnx"]) == ["file", "link", "onnx/pipe"]


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b", True), ("../a", False), ("a/../../b", False), ("/etc", False), (".", False), ("", False),
        ("a\0b", False),
        ("a//b", False), ("a//etc/passwd", False), ("./a", False), ("a/./b", False), ("a/", False), ("//a", False),
    ],
)  # fmt: skip
def test_names_that_lead_outside(name: str, inside: bool) -> None:
    assert sealed.is_inside(name) is inside


def test_what_differs_is_shown_without_python() -> None:
    class Plan(msgspec.Struct, frozen=True):
        code: str
        chunk: int | None
        options: dict[str, bool]
        digest: str

    there, here = Plan("float32", None, {"a": True}, "1"), Plan("int8", 3, {"a": False}, "2")
    assert sealed.differences(there, here, {"digest"}) == (
        "code was 'float32', is 'int8'; chunk was null, is 3; options was {\"a\":true}, is {\"a\":false}"
    )
    assert sealed.differences(there, there, set()) == ""


def test_a_sealed_manifest_that_names_a_file_outside_is_refused(tmp_path: Path) -> None:
    """Whichever command reads it: whoever wrote the folder sealed it, too."""

    class Listing(msgspec.Struct, frozen=True):
        format: int
        files: dict[str, SealedFile]
        digest: str = ""

    sealed.write(tmp_path / "listing.json", Listing(1, {"../a": SealedFile(sha256="0" * 64, size=1)}))
    with pytest.raises(UnsafeError, match="outside the note"):
        sealed.read(tmp_path / "listing.json", Listing, 1, "note")


def test_a_file_outside_is_a_problem_and_not_opened(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_bytes(b"x")
    assert sealed.problems(folder, {"../outside": SealedFile.of(outside)}, ["../outside"]) == [
        "'../outside' is not the name of a file inside the folder"
    ]
