"""Relevance judgements (qrels) in TREC and BEIR format: query-id, corpus-id and score, separated by tabs."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from pathlib import Path

from embedship.errors import UsageError


def read(path: Path, known: AbstractSet[str], place: str) -> dict[str, set[str]]:
    """Return the ids of the relevant documents of each query: those with a score above 0.

    The file has a header line. Blank lines are skipped.

    `known` has the ids of all documents; `place` names their file in errors. Raises UsageError with file and line.
    """
    relevant: dict[str, set[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if rows and _is_judgement(rows[0][1]):
        raise UsageError(f"{path} has no header line: begin it with query-id, corpus-id and score, separated by tabs")
    for number, row in rows[1:]:
        query, document, score = _judgement(row, f"{path}, line {number}")
        if document not in known:
            raise UsageError(f"{path}, line {number}: document {document!r} is not in {place}")
        if score > 0:
            relevant.setdefault(query, set()).add(document)
    return relevant


def _is_judgement(row: list[str]) -> bool:
    try:
        return math.isfinite(float(row[2]))
    except (IndexError, ValueError):
        return False


def _judgement(row: list[str], place: str) -> tuple[str, str, float]:
    try:
        query, document, score = row
        return query, document, float(score)
    except ValueError:
        raise UsageError(
            f"{place}: expected query-id, corpus-id and score, separated by tabs, not: {'  '.join(row)}"
        ) from None
