"""Trains a cross-encoder for MedQuAD: MiniLM's weights with a new head, on questions outside the test set.

Each question has its answer and hard negatives: wrong answers that MiniLM ranks high. The loss is a softmax over the
scores of one question's passages. Seeded. Uses bfloat16 if the CPU supports it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, get_linear_schedule_with_warmup

MOST_TOKENS = 192
QUESTIONS = 8  # per training step
RATE = 5e-5


class Lesson(NamedTuple):
    """A question and its passages. The first passage is the answer."""

    question: str
    passages: list[str]


def train(base: Path, lessons: Sequence[Lesson], out: Path, said: Callable[[str], object]) -> dict[str, Any]:
    """Train one epoch, save the checkpoint to `out` and return a summary."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    tokenizer.model_max_length = MOST_TOKENS
    model = BertForSequenceClassification.from_pretrained(str(base), num_labels=1).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps = list(_steps(lessons))
    schedule = get_linear_schedule_with_warmup(optimiser, len(steps) // 10, len(steps))
    began, losses = time.perf_counter(), []
    for number, step in enumerate(steps):
        pairs = [(each.question, passage) for each in step for passage in each.passages]
        questions, passages = zip(*pairs, strict=True)
        given = tokenizer(
            list(questions), list(passages), truncation=True, max_length=MOST_TOKENS, padding=True, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(**given).logits.float().view(len(step), -1)
        loss = torch.nn.functional.cross_entropy(scores, torch.zeros(len(step), dtype=torch.long))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if number % 25 == 24:
            said(f"step {number + 1} of {len(steps)}, loss {np.mean(losses[-25:]):.3f}")
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "questions": len(lessons),
        "pairs": sum(len(each.passages) for each in lessons),
        "most_tokens": MOST_TOKENS,
        "seconds": time.perf_counter() - began,
        "loss_first": float(np.mean(losses[:25])),
        "loss_last": float(np.mean(losses[-25:])),
    }


def _steps(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    order = np.random.default_rng(0).permutation(len(lessons))
    for start in range(0, len(order) - QUESTIONS + 1, QUESTIONS):
        yield [lessons[place] for place in order[start : start + QUESTIONS]]
