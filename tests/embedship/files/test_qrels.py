from __future__ import annotations

from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.files import qrels

HEADER = "query-id\tcorpus-id\tscore\n"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "qrels.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("blank", ["\n", " \n", "\t\t\n", "\r\n"])
def test_blank_lines_are_skipped_wherever_they_stand(tmp_path: Path, blank: str) -> None:
    content = f"{blank}{HEADER}q1\ta\t1\n{blank}q1\tb\t0\nq2\tb\t2\n{blank}{blank}"
    assert qrels.read(written(tmp_path, content), {"a", "b"}, "corpus") == {"q1": {"a"}, "q2": {"b"}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (HEADER + "\nq1 a 1\n", "line 3: expected query-id, corpus-id and score, separated by tabs, not: q1 a 1"),
        (HEADER + "q1\ta\thigh\n", "separated by tabs, not: q1  a  high"),
        (HEADER + "\nq1\tc\t1\n", "line 3: document 'c' is not in corpus"),
        ("\nq1\ta\t1\n", "has no header line"),
        (b"\xff", "is not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        qrels.read(written(tmp_path, content), {"a"}, "corpus")
    assert sentence in str(raised.value)
    assert "[" not in str(raised.value).removeprefix(str(tmp_path)), "no Python in a sentence"


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.tsv cannot be read: No such file"):
        qrels.read(tmp_path / "none.tsv", set(), "corpus")
