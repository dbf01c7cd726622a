"""Forward pass of the checkpoint's own code: its errors as messages, and the length that its positions allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedship.errors import EmbedshipError, UsageError

# A repeated word: its token ids do not ascend. A table that is read at ascending rows must be a table of positions.
REPEATED = "a " * 12


def known_length(tokens: Any) -> int | None:
    """Return the length that a checkpoint states; None if it states none: transformers then says 0, -1 or 1e30."""
    return int(tokens) if tokens and 0 < tokens < 10**7 else None


@contextmanager
def translate_model_errors(folder: Path) -> Iterator[None]:
    """Raise UsageError, with the model's own message, if a checkpoint that could be opened fails on a text."""
    try:
        yield
    except (EmbedshipError, MemoryError):
        raise
    except Exception as error:  # model code can raise any class
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the operating system, such as a full disk; an OSError of transformers has no errno
        reason = str(error).strip().splitlines() or ["no message"]
        raise UsageError(
            f"{folder} opens, but the model's own code fails on a text ({type(error).__name__}: {reason[0]}): correct "
            "its config.json or its tokenizer's settings, and check that transformers itself encodes a batch with it"
        ) from error


def position_limit(features: dict[str, Any], run: Callable[[], object]) -> int | None:
    """Return the number of tokens that the model's tables of positions allow; None if it has no such table.

    `features` are the inputs for one text of a repeated word, and `run` computes the model on them. A table of
    positions is an embedding table from which a text of n tokens reads n consecutive rows. The first of these rows is
    0 for BERT, padding_idx + 1 for RoBERTa, 2 for OPT. The rows before it are never positions. Models with rotary or
    relative positions have no table.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    tokens = int(features["input_ids"].shape[-1])
    limits: list[int] = []

    class TableRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Records the size of every table of positions that is read."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.embedding.default and args[1].numel() == args[1].shape[-1] >= tokens > 1:
                rows = args[1].reshape(-1)[:tokens]
                if bool((rows.diff() == 1).all()):
                    limits.append(int(args[0].shape[0] - rows[0]))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), TableRows():  # type: ignore[no-untyped-call]
        run()
    return min(limits, default=None)


def require_within(folder: Path, stated: int, limit: int, derived: int | None) -> int:
    """Return the longest input in tokens: the length `stated` by the checkpoint, but at most `limit` positions.

    `derived` is max_position_embeddings of the config. Libraries save it as the stated length, although it may count
    rows that are not positions. Raises UsageError if `stated` is above `limit` and is not `derived`.
    """
    if stated > limit and stated != derived:
        raise UsageError(
            f"{folder} states a maximum text length of {stated:,} tokens (max_seq_length), and its model has {limit:,} "
            f"positions: set max_seq_length to {limit} in sentence_bert_config.json"
        )
    return min(stated, limit)
