"""Sends the texts of every test to the server, and returns the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from embedship.batches import round_rows
from embedship.bundle import ModelSpec
from embedship.serve.audit.answers import AuditAnswers, BatchAnswer, BatchTest, TextAnswer
from embedship.serve.audit.apis import InvalidAnswer
from embedship.serve.audit.server import AuditedServer, RequestRejected, ServerFailed
from embedship.serve.audit.texts import AuditTexts

MANY = 64  # texts in one request, or in concurrent requests
_CONNECTIONS = 16
_PROMPTED_TEXTS = 4
_SEED = 7

Advance = Callable[[int], object]


class AnswerCollector:
    """Sends the texts of an audit. It calls `advance` with the number of texts after each answer."""

    def __init__(self, server: AuditedServer, texts: AuditTexts, model: ModelSpec, advance: Advance) -> None:
        self._server = server
        self._texts = texts
        self._model = model
        self._advance = advance
        self._answers = AuditAnswers()

    @staticmethod
    def total(server: AuditedServer, texts: AuditTexts, model: ModelSpec) -> int:
        """Return the number of texts that will be sent."""
        mixed = len(texts.ordinary) + len(texts.unusual)
        alone = mixed + len(texts.lengths) + len(texts.edge)
        prompted = _PROMPTED_TEXTS * len(server.api.prompt_values(model))
        return alone + 2 * mixed + 3 * len(texts.lengths) + 2 * MANY + prompted

    def collect(self) -> AuditAnswers:
        """Send everything. Raises EngineError if the server stops answering."""
        texts = self._texts
        by_length = [first for first, _ in texts.lengths.values()]
        for text in [*texts.ordinary, *texts.unusual, *by_length, *texts.edge.values()]:
            self._alone(text)
        self._together([*texts.ordinary, *texts.unusual], by_length)
        for tokens, (first, second) in texts.lengths.items():
            if self._answered([first]):
                self._batch(BatchTest.SAME_LENGTH, [first, second, first], tokens)
        for value in self._server.api.prompt_values(self._model):
            some = texts.ordinary[:_PROMPTED_TEXTS]
            self._answers.prompted[value] = [self._send([text], value)[0][0] for text in some]
            self._advance(len(some))
        if self._server.api.packs:
            self._packed(texts.ordinary[:_PROMPTED_TEXTS])
        return self._answers

    def _together(self, mixed: Sequence[str], by_length: Sequence[str]) -> None:
        random = np.random.default_rng(_SEED)
        known = self._answered(mixed)
        self._batch(BatchTest.TOGETHER, known)
        self._batch(BatchTest.SHUFFLED, [known[i] for i in random.permutation(len(known))])
        pool = self._answered([*by_length, *mixed])
        if not pool:
            return
        many = [pool[i % len(pool)] for i in random.permutation(max(MANY, len(pool)))[:MANY]]
        self._batch(BatchTest.MANY, many)
        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            answers = tuple(threads.map(lambda text: self._send([text])[0][0], many))
        self._answers.batches.append(BatchAnswer(BatchTest.CONCURRENT, answers))
        self._advance(len(many))

    def _answered(self, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if self._answers.alone[text].vector is not None]

    def _alone(self, text: str) -> None:
        if text not in self._answers.alone:
            self._answers.alone[text] = self._send([text])[0][0]
        self._advance(1)

    def _batch(self, test: BatchTest, texts: Sequence[str], tokens: int | None = None) -> None:
        if not texts:
            return
        size = min(len(texts), self._answers.largest or len(texts))
        parts = [self._send(texts[start : start + size]) for start in range(0, len(texts), size)]
        if size > 1 and any(answer.rejected for answers, _ in parts for answer in answers):
            # Each text was accepted alone, so the request has too many texts. Limits are usually powers of two.
            self._answers.largest = round_rows(size - 1)
            self._batch(test, texts, tokens)
            return
        answers = tuple(answer for part, _ in parts for answer in part)
        self._answers.batches.append(BatchAnswer(test, answers, all(in_order for _, in_order in parts), tokens))
        self._advance(len(texts))

    def _packed(self, texts: Sequence[str]) -> None:
        known = self._answered(texts)
        if not known:
            return
        results = [self._request([text], None, True) for text in known]
        self._answers.packed = [answers[0] for answers, _, _ in results]
        self._answers.packed_as_numbers = not all(packed for _, _, packed in results)

    def _send(self, texts: Sequence[str], prompt: str | None = None) -> tuple[tuple[TextAnswer, ...], bool]:
        return self._request(texts, prompt, False)[:2]

    def _request(
        self, texts: Sequence[str], prompt: str | None, packed: bool
    ) -> tuple[tuple[TextAnswer, ...], bool, bool]:
        """Return the answers of one request, whether its entries are in order, and whether they came as base64."""
        try:
            rows = self._server.embed(texts, prompt, packed=packed)
        except RequestRejected as error:
            return tuple(TextAnswer(text, None, str(error), rejected=True) for text in texts), True, packed
        except (InvalidAnswer, ServerFailed) as error:
            return tuple(TextAnswer(text, None, str(error)) for text in texts), True, packed
        answers = tuple(TextAnswer(text, row) for text, row in zip(texts, rows.vectors, strict=True))
        return answers, rows.positions == tuple(range(len(texts))), rows.packed
