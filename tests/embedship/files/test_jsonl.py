from __future__ import annotations

from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.files.jsonl import TextLine, read


def test_blank_lines_are_skipped_and_other_keys_ignored(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b", "id": 3}\n')
    assert [row.text for row in read(path, TextLine)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"text": "a"}\n{"text": 3}\n', r"line 2: `text` must be a string, not an integer"),
        (b'{"text": "a"}\n{"txt": "b"}\n', r"line 2: `text` is missing"),
        (b'{"text": "a"}\n\n{"text": "b"\n', r"line 3: "),
        (b'{"text": "\xff"}\n', r"line 1: "),
        (b'{"text": "a", "b": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", r"line 1: it is nested too deeply"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        list(read(path, TextLine))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.jsonl cannot be read: No such file"):
        list(read(tmp_path / "nowhere.jsonl", TextLine))
