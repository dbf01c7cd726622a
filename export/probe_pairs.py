"""Probe pairs of query and passage for re-rankers, and the comparison of their ranking with the checkpoint's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embedship import stdlib_docs
from embedship.bundle import TOKENIZER, ModelSpec, Task
from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.export import probe_texts
from embedship.files import jsonl
from embedship.likeness import spread
from embedship.tokens import Text, Tokenizer

_QUERY = "How do I open a file?"
# If the user gives no pairs, a query gets the passages at these distances in the list of documented objects: its own
# passage, neighbours from the same module, and some from other modules.
_PASSAGES = (0, 1, 2, 50, 500)
# If the scores of two passages differ by less than this (in units of `spread`), their order is not judged.
_TIE = 1e-4


class ProbePair(msgspec.Struct, frozen=True):
    """One line of --texts for a re-ranker."""

    query: str
    text: str


def adversarial_pairs(tokenizer: Tokenizer, pipeline: ModelSpec) -> list[Text]:
    """Return the adversarial texts. A re-ranker gets each as passage, as query, and in a pair with another of them."""
    texts = probe_texts.adversarial_texts(tokenizer, min(pipeline.max_tokens, probe_texts.LONGEST))
    if pipeline.task is Task.EMBED:
        return list(texts)
    pairs = [(texts[i], texts[-1 - i]) for i in range(len(texts))]
    return [*((_QUERY, text) for text in texts), *((text, _QUERY) for text in texts), *pairs]


def real(file: Path | None) -> list[Text]:
    """Return the pairs of a JSON Lines file, grouped by query; without a file, questions on Python's documentation."""
    if file is not None:
        distinct = dict.fromkeys((row.query, row.text) for row in jsonl.read(file, ProbePair) if row.text.strip())
        groups: dict[str, list[Text]] = {}
        for pair in distinct:
            groups.setdefault(pair[0], []).append(pair)
        return [pair for group in groups.values() for pair in group]
    entries = stdlib_docs.entries()
    return [
        (entry.summary, entries[(place + step) % len(entries)].body)
        for place, entry in enumerate(entries)
        for step in _PASSAGES
    ]


def sample(pairs: Sequence[Text], count: int, seed: int) -> list[Text]:
    """Return at most `count` pairs. Queries are drawn at random, each with all its passages."""
    groups: dict[str, list[Text]] = {}
    for pair in pairs:
        groups.setdefault(pair[0], []).append(pair)
    order = np.random.default_rng(seed).permutation(len(groups))
    groups_in_order = list(groups.values())
    return [pair for place in order for pair in groups_in_order[place]][:count]


def concordance(pairs: Sequence[Text], actual: Vectors, expected: Vectors) -> float:
    """Return how often `actual` and `expected`, scores (n, 1), order two passages of the same query alike, in [0, 1].

    This is (1 + tau) / 2 with Kendall's tau (1938) within each query. Two passages with equal `expected` scores count
    as correct. If no query has two passages, the result is 1.
    """
    actual_scores, expected_scores = (scores[:, 0].astype(np.float64) for scores in (actual, expected))
    groups: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        groups.setdefault(pair[0], []).append(row)
    tie, right, compared = _TIE * spread(expected), 0, 0
    for rows in groups.values():
        above, below = np.triu_indices(len(rows), 1)
        wanted = np.subtract.outer(expected_scores[rows], expected_scores[rows])[above, below]
        actual_differences = np.subtract.outer(actual_scores[rows], actual_scores[rows])[above, below]
        right += int(((wanted * actual_differences > 0) | (np.abs(wanted) <= tie)).sum())
        compared += len(wanted)
    return right / compared if compared else 1.0


def require_same_tokens(loaded: Any, pipeline: ModelSpec, tokenizer_json: str) -> None:
    """Compare the frozen tokenizer with the checkpoint's own on adversarial pairs: ids, and token types if present.

    Raises UsageError at the first difference. Also raises it if the token types are not 0 for the query and 1 for the
    passage, because graphs receive only these.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, TOKENIZER)
        path.write_text(tokenizer_json, encoding="utf-8")
        tokenizer = Tokenizer(path, pipeline)
    pairs = adversarial_pairs(tokenizer, pipeline)
    tokens = tokenizer(pairs)
    for pair, ids, turn in zip(pairs, tokens.ids, tokens.turns, strict=True):
        # Give lists, as CrossEncoder does: a single empty passage (not in a list) would be treated as missing.
        batch = loaded([pair[0]], [pair[1]], truncation=True, max_length=pipeline.max_tokens)
        inputs = {name: rows[0] for name, rows in batch.items()}
        if inputs["input_ids"] != ids:
            raise UsageError(
                f"the frozen tokenizer and the checkpoint disagree on {probe_texts.shown(pair)}: {len(ids)} and "
                f"{len(inputs['input_ids'])} tokens. Check that the checkpoint's truncation_side is not left"
            )
        types = [0] * turn + [1] * (len(ids) - turn) if turn else [0] * len(ids)
        if inputs.get("token_type_ids", types) != types:
            raise UsageError(
                f"this tokenizer gives {probe_texts.shown(pair)} token types other than 0 for the query and 1 for the "
                "passage, which is not supported"
            )
