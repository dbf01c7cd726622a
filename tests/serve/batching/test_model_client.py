"""Which requests are small: tokenised where they come in, and served first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import current_thread, main_thread
from typing import Any

import pytest

from embedship.serve.batching.model_client import SMALL_CHARACTERS
from embedship.serve.telemetry.request_context import Priority
from embedship.tokens import Text, TokenBatch

PROMPT = "Given a question of a user, retrieve the passages that answer it best of all there are: "


@pytest.mark.parametrize(
    ("texts", "prompt", "small"),
    [
        (["a"], PROMPT, True),
        (["a"] * 20, PROMPT, True),
        (["a"] * 1_000, PROMPT, False),
        (["a"] * 1_000, "", False),  # their special tokens
        (["a"] * 100, "", True),
        (["a" * SMALL_CHARACTERS], "", False),
        (["a" * (SMALL_CHARACTERS - 8)], "", True),
    ],
)
def test_what_is_small_counts_prompts_and_special_tokens(
    fresh: Callable[..., Any], texts: list[str], prompt: str, small: bool
) -> None:
    api = fresh(max_texts=1_024, queue_texts=4_096)
    forward, on_the_loop = api.service.forward, []
    tokenizer = forward.tokenizer

    class Noting:
        def __call__(self, texts: Sequence[Text], prompt: str) -> TokenBatch:
            on_the_loop.append(current_thread() is main_thread())
            found: TokenBatch = tokenizer(texts, prompt)
            return found

    forward.tokenizer = Noting()
    asyncio.run(forward.encode(texts, prompt))
    assert on_the_loop == [small]
    waited = {lane for lane in Priority if api.metric("embedship_queue_seconds_count", lane=lane)}
    assert waited == {Priority.INTERACTIVE if small else Priority.BULK}
