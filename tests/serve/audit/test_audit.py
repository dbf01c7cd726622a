"""`embedship audit`: each planted fault is found and named, and nothing is found in a right server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from embedship.bundle import Precision
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import AuditReport, FaultKind

from .conftest import LIMIT, Floats, MiniLm, PlainServer, audited


class ClsPooling(PlainServer):
    def pool(self, hidden: Floats) -> Floats:
        return hidden[0]


class LastTokenPooling(PlainServer):
    def pool(self, hidden: Floats) -> Floats:
        return hidden[-1]


class MaxPooling(PlainServer):
    def pool(self, hidden: Floats) -> Floats:
        return np.asarray(hidden.max(axis=0))


class NotNormalised(PlainServer):
    def scale(self, vector: Floats) -> Floats:
        return vector


class NoSpecialTokens(PlainServer):
    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.minilm.tokenizer.encode(text, add_special_tokens=False).ids
        return ids[:LIMIT] or super().ids(text)


class TruncatesAt128(PlainServer):
    def ids(self, text: str) -> list[int]:
        ids = super().ids(text)
        return ids if len(ids) <= 128 else [*ids[:127], ids[-1]]


class TruncatesAt100(PlainServer):
    """A length that no server has by default."""

    def ids(self, text: str) -> list[int]:
        ids = super().ids(text)
        return ids if len(ids) <= 100 else [*ids[:99], ids[-1]]


class Reads512(PlainServer):
    """The limit of the positions instead of that of the checkpoint."""

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.minilm.tokenizer.encode(text).ids
        return ids if len(ids) <= 512 else [*ids[:511], ids[-1]]


class TruncatesTheBeginning(PlainServer):
    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.minilm.tokenizer.encode(text).ids
        return ids if len(ids) <= LIMIT else [ids[0], *ids[1 - LIMIT :]]


class LosesTheEndToken(PlainServer):
    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.minilm.tokenizer.encode(text).ids
        return ids[:LIMIT]


class Reverses(PlainServer):
    def embed(self, texts: Sequence[str]) -> list[Floats]:
        return super().embed(texts)[::-1]


class SortsByLength(PlainServer):
    """Sorted for less padding, and not sorted back."""

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        return super().embed(sorted(texts, key=len))


class PoolsPadding(PlainServer):
    """The mean of all positions of the batch, with zeros at the padding."""

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        hidden = [self.minilm.hidden(self.ids(text)) for text in texts]
        longest = max(map(len, hidden))
        noise = np.linspace(-1, 1, 384, dtype=np.float32)
        return [self.scale((each.sum(axis=0) + (longest - len(each)) * noise) / longest) for each in hidden]


class WrongAt32(PlainServer):
    """A kernel that is wrong for batches exactly 32 wide, as OpenVINO's on CPUs with AMX was."""

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        rows = super().embed(texts)
        width = max(len(self.ids(text)) for text in texts)
        return [self.scale(row + 0.03 * np.cos(np.arange(384))) for row in rows] if width == 32 else rows


class WrongAtThreeTimes40(PlainServer):
    """A shape with several rows."""

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        rows = super().embed(texts)
        width = max(len(self.ids(text)) for text in texts)
        wrong = len(texts) > 1 and width == 40
        return [self.scale(row + 0.03 * np.cos(np.arange(384))) for row in rows] if wrong else rows


class MixesRequests(PlainServer):
    """Of two requests that arrive together, the first gets the answer of the second: they share a buffer."""

    def __init__(self, minilm: MiniLm) -> None:
        super().__init__(minilm)
        self._at_once = 0  # requests of one text that are still to come after the large one
        self._lock, self._waiting = threading.Lock(), queue.SimpleQueue[list[Floats]]()
        self._is_first = False

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        rows = super().embed(texts)
        with self._lock:
            self._at_once = 64 if len(texts) == 64 else self._at_once - 1
            if len(texts) > 1 or self._at_once < 0:
                return rows
            self._is_first = first = not self._is_first
        if first:
            return self._waiting.get(timeout=60)
        self._waiting.put(rows)
        return rows


class AnotherModel(PlainServer):
    def vector(self, text: str) -> Floats:
        return super().vector(text)[np.random.default_rng(1).permutation(384)]


class FewerDimensions(PlainServer):
    def vector(self, text: str) -> Floats:
        return self.scale(super().vector(text)[:128])


class Coarse(PlainServer):
    """A few values per number."""

    def vector(self, text: str) -> Floats:
        vector = super().vector(text)
        return self.scale(np.round(vector / np.float32(0.05)))


class DropsEmoji(PlainServer):
    def ids(self, text: str) -> list[int]:
        return super().ids(text.encode("ascii", "ignore").decode())


class DropsSpecialTokensInTexts(PlainServer):
    def ids(self, text: str) -> list[int]:
        return super().ids(text.replace("[SEP]", "").replace("[CLS]", "").replace("[PAD]", ""))


class NanForShortTexts(PlainServer):
    def vector(self, text: str) -> Floats:
        vector = super().vector(text)
        return vector * np.float32("nan") if len(self.ids(text)) == 3 else vector


class FailsOnSome(PlainServer):
    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (500, {"error": "boom"}) if "two  inside" in str(body) else super().answer(path, body)


class RejectsLongTexts(PlainServer):
    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        longest = max(len(self.ids(text)) for text in body["input"])
        return (422, {"error": "at most 100 tokens"}) if longest > 100 else super().answer(path, body)


class Float16Bytes(PlainServer):
    def pack(self, vector: Floats) -> bytes:
        return vector.astype("<f2").tobytes()


class BigEndianBytes(PlainServer):
    def pack(self, vector: Floats) -> bytes:
        return vector.astype(">f4").tobytes()


FAULTS: list[tuple[type[PlainServer], FaultKind, str]] = [
    (ClsPooling, FaultKind.POOLING, "uses cls pooling, and the model uses mean"),
    (LastTokenPooling, FaultKind.POOLING, "uses lasttoken pooling"),
    (MaxPooling, FaultKind.POOLING, "uses max pooling"),
    (NotNormalised, FaultKind.NORMALISATION, "does not normalise"),
    (NoSpecialTokens, FaultKind.TOKENS, "leaves out the special tokens"),
    (TruncatesAt128, FaultKind.TRUNCATION, "truncates texts to 128 tokens, and the model reads 256"),
    (TruncatesAt100, FaultKind.TRUNCATION, "truncates texts to 100 tokens"),
    (Reads512, FaultKind.TRUNCATION, "reads 512 tokens, and the model reads 256"),
    (TruncatesTheBeginning, FaultKind.TRUNCATION, "removes the beginning of texts that are too long"),
    (LosesTheEndToken, FaultKind.TRUNCATION, "loses the special token at the end"),
    (Reverses, FaultKind.ORDER, "in another order"),
    (SortsByLength, FaultKind.ORDER, "in another order"),
    (PoolsPadding, FaultKind.BATCH, "depends on the other texts of its request"),
    (WrongAt32, FaultKind.SHAPE, "at some lengths only: 32 tokens"),
    (WrongAtThreeTimes40, FaultKind.SHAPE, "at some lengths only: 40 tokens"),
    (MixesRequests, FaultKind.ORDER, "mixes up the answers of requests"),
    (AnotherModel, FaultKind.MODEL, "another model"),
    (FewerDimensions, FaultKind.DIMENSIONS, "have 128 dimensions, and those of the model have 384"),
    (Coarse, FaultKind.PRECISION, "not exact enough"),
    (DropsEmoji, FaultKind.TEXT, "removes characters outside ASCII"),
    (DropsSpecialTokensInTexts, FaultKind.TEXT, "removes tokens such as [SEP]"),
    (NanForShortTexts, FaultKind.SHAPE, "at some lengths only: 3 tokens"),
    (FailsOnSome, FaultKind.FAILED, "fails on 1 of"),
    (RejectsLongTexts, FaultKind.REJECTED, "which the model reads"),
    (Float16Bytes, FaultKind.ENCODING, "base64"),
    (BigEndianBytes, FaultKind.ENCODING, "base64"),
]


@pytest.mark.parametrize(("kind", "fault", "words"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_named_and_no_other(
    kind: type[PlainServer], fault: FaultKind, words: str, minilm_tokens: MiniLm, reference: ReferenceModel
) -> None:
    report = audited(reference, kind(minilm_tokens))
    assert not report.passed
    assert {each.kind for each in report.faults} == {fault}, report.faults
    assert words in report.faults[0].message
    assert all(each.evidence for each in report.faults)


def require_right(report: AuditReport) -> None:
    assert report.passed, report.faults
    assert report.precision is Precision.FLOAT32
    assert sum(each.wrong for each in report.checks) == 0
    assert len(report.checks) >= 9
    assert report.requests < 400


@pytest.mark.parametrize("api", ["openai", "tei", "infinity", "cohere", "ollama"])
def test_a_right_server_is_right_through_every_api(api: str, minilm_tokens: MiniLm, reference: ReferenceModel) -> None:
    report = audited(reference, PlainServer(minilm_tokens), api=api)
    require_right(report)
    assert report.api == api
