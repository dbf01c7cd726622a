"""Token ids are checked where they are accepted at all; /tokenize and /decode; /similarity; the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pytest

from embedship.serve.errors import Invalid
from embedship.serve.http.routes import tei
from embedship.serve.schemas import EmbedRequest
from embedship.serve.settings import Settings

from ...conftest import opened

if TYPE_CHECKING:
    from embedship.serve.service.service import ModelService

TEXT = "How do I open a file?"


@pytest.fixture(scope="module")
def trusting(settings: Settings) -> Iterator[Any]:
    with opened(replace(settings, accept_token_ids=True)) as asked:
        yield asked


def ids_of(api: Any, text: str) -> list[int]:
    return [token["id"] for token in api.post("/tokenize", {"inputs": text}).json()[0]]


def test_ids_of_tokenize_give_the_vector_of_the_text(trusting: Any) -> None:
    ids = ids_of(trusting, TEXT)
    asked = [trusting.post("/v1/embeddings", {"input": value}).json() for value in (TEXT, ids, [ids])]
    vectors = np.array([reply["data"][0]["embedding"] for reply in asked])
    np.testing.assert_array_equal(vectors[1:], vectors[[0, 0]])
    assert [reply["usage"]["prompt_tokens"] for reply in asked] == [len(ids)] * 3
    assert len(trusting.post("/v1/embeddings", {"input": [TEXT, TEXT]}).json()["data"]) == 2


@pytest.mark.parametrize(
    ("value", "status", "says"),
    [
        ([5, 102], 400, "do not begin with [101] and end with [102]"),
        ([[101, 102], [101, 5]], 400, "Text 1: the ids do not begin with"),
        ([[101, 102], [101, 30522, 102]], 400, "Text 1: the ids of this model are 0 to 30521"),
        ([101, -1, 102], 400, "Text 0: the ids of this model are"),
        ([[]], 400, "do not begin with"),
        ([101, *[5] * 300, 102], 413, "has 302 token ids"),
        ([101, "a"], 400, "not a mixture"),
        ([], 400, "the list is empty"),
    ],
)
def test_ids_that_would_be_silently_wrong(trusting: Any, value: Any, status: int, says: str) -> None:
    answer = trusting.post("/v1/embeddings", {"input": value})
    assert (answer.status_code, says in answer.json()["error"]["message"]) == (status, True), answer.text


def test_tokenize_and_decode_are_inverse(api: Any) -> None:
    tokens = api.post("/tokenize", {"inputs": [TEXT, "zip"]}).json()
    assert [token["id"] for token in tokens[0]] == api.service.encoder.tokenizer([TEXT]).ids[0]
    assert tokens[0][0] == {"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None}
    first = tokens[0][1]
    assert TEXT[first["start"] : first["stop"]].lower() == first["text"]
    bare = api.post("/tokenize", {"inputs": "zip", "add_special_tokens": False}).json()
    assert bare == [tokens[1][1:-1]]
    ids = [[token["id"] for token in row] for row in tokens]
    assert api.post("/decode", {"ids": ids}).json() == [TEXT.lower(), "zip"]
    assert api.post("/decode", {"ids": ids[1], "skip_special_tokens": False}).json() == ["[CLS] zip [SEP]"]
    assert api.post("/decode", {"ids": [10**6]}).status_code == 422
    assert api.post("/decode", {"ids": [1, [2]]}).status_code == 422


def test_similarity_is_the_cosine(api: Any) -> None:
    inputs = {"source_sentence": TEXT, "sentences": [TEXT, "open files", "ripe bananas"]}
    scores = api.post("/similarity", {"inputs": inputs, "parameters": {}}).json()
    rows = np.array(api.post("/embed", {"inputs": inputs["sentences"]}).json())
    np.testing.assert_allclose(scores, rows @ rows[0], atol=5e-3)
    assert scores[0] > scores[1] > scores[2]


def test_a_lane_is_taken_from_the_header(api: Any) -> None:
    """Of the queue, an eighth is kept for interactive requests: there a bulk one finds no permit."""
    from embedship.serve.telemetry.request_context import Priority

    with api.service.inference.admission.acquire(225, Priority.INTERACTIVE):
        body = {"inputs": "a"}
        assert api.post("/embed", body).status_code == 200
        assert api.ask("POST", "/embed", json=body, headers={"X-Embedship-Lane": "bulk"}).status_code == 429
        assert api.ask("POST", "/embed", json=body, headers={"X-Embedship-Lane": "Interactive"}).status_code == 200


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {"inputs": TEXT}), ("/decode", {"ids": [[101, 102]]})])
def test_there_is_no_way_around_admission(api: Any, path: str, body: Any) -> None:
    """What only the tokeniser does takes a permit a text, too, and gives it back; what is large waits as bulk does."""
    from embedship.serve.telemetry.request_context import Priority

    admission = api.service.inference.admission
    field, one = next(iter(body.items()))
    many = {field: ([one] if field == "inputs" else one) * 40}
    with admission.acquire(256, Priority.INTERACTIVE):
        refused = api.post(path, body)
    assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    with admission.acquire(216, Priority.INTERACTIVE):
        assert api.post(path, many).status_code == 200
        asked = api.ask("POST", path, json=many, headers={"X-Embedship-Lane": "bulk"})
        assert asked.status_code == 429, "an eighth is for interactive work"
    assert admission.inside == 0


@pytest.mark.parametrize("text", ["open a file", "open a file " * 40])
def test_tokens_are_written_on_a_thread_and_not_on_the_event_loop(
    api: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = []

    def watched(encoding: Any) -> Any:
        running.append(asyncio._get_running_loop() is not None)
        return tokens(encoding)

    tokens = tei._token_list
    monkeypatch.setattr(tei, "_token_list", watched)
    answer = api.post("/tokenize", {"inputs": [text, text]}).json()
    assert answer[0] == answer[1]
    assert running == [False] * 2


def test_what_cutting_normalises_again_cannot_be_asked_for_raw(api: Any) -> None:
    raw = msgspec.structs.replace(api.service.bundle.manifest.pipeline, normalised=False, dimensions=(384, 64))
    manifest = SimpleNamespace(pipeline=raw)
    door = tei.TeiRoutes(cast("ModelService", SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))))
    door._check(EmbedRequest("a", normalize=False, dimensions=384))
    with pytest.raises(Invalid, match="shortened vectors are always renormalised"):
        door._check(EmbedRequest("a", normalize=False, dimensions=64))
