"""The packages that people already have, against a server process: each gets the vectors that `Encoder` computes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from embedship.encoder import Encoder
from embedship.golden_texts import ALONE_FLOOR

from ..conftest import launched
from .ask import KEY, TEXTS


@pytest.fixture(scope="module")
def expected(bundle: Path) -> np.ndarray:
    with Encoder.open(bundle) as encoder:
        return encoder.encode(TEXTS)


def same(found: Any, expected: np.ndarray) -> bool:
    """The same vectors, but for the kernel a batch of another size takes."""
    rows = np.asarray(found, dtype=np.float32)
    return rows.shape == expected.shape and bool(((rows * expected).sum(1) > ALONE_FLOOR).all())


@pytest.fixture
def client(live: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0)


def test_openai(client: openai.OpenAI, expected: np.ndarray) -> None:
    reply = client.embeddings.create(model="any", input=TEXTS)  # asks for base64 by itself
    plain = client.embeddings.create(model="any", input=TEXTS, encoding_format="float")
    for each in (reply, plain):
        assert same([item.embedding for item in each.data], expected)
        assert each.usage.prompt_tokens == each.usage.total_tokens == 14
    assert [item.index for item in reply.data] == [0, 1]


def test_openai_models(client: openai.OpenAI) -> None:
    (card,) = client.models.list().data
    assert client.models.retrieve(card.id) == card
    assert card.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError, match=f"Its model is: {card.id}"):
        client.models.retrieve("sentence-transformers/another")


def test_openai_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
        client.embeddings.create(model="any", input=[[1, 2]])
    assert (refused.value.param, refused.value.code, refused.value.type) == (
        "input", "invalid", "invalid_request_error",
    )  # fmt: skip
    with pytest.raises(openai.APIStatusError, match="2049 texts") as large:
        client.embeddings.create(model="any", input=["a"] * 2049)
    assert large.value.status_code == 413


def test_huggingface_hub(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "huggingface")
    for path in ("", "/embed"):
        assert same(found[f"one{path}"], expected[:1])
        assert same(found[f"several{path}"], expected)
        assert "Text 0 has 1602 tokens and the model reads 256" in found[f"refused{path}"]
    np.testing.assert_allclose(found["similarity"], expected @ expected[0], atol=5e-3)


def test_langchain(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "langchain")
    assert "check_embedding_ctx_length=False" in found["refused"]
    assert same(found["documents"], expected)
    assert same([found["query"]], expected[:1])


def test_llama_index(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "llama_index")
    assert same(found["documents"], expected)
    assert same([found["query"], found["later"]], expected)


def test_cohere(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "cohere")
    assert same(found["float"], expected)
    assert same(found["plain"], expected)
    assert same([np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]], expected)
    np.testing.assert_array_equal(found["ubinary"], np.packbits(np.array(found["float"]) > 0, axis=1))
    np.testing.assert_array_equal(np.array(found["binary"]) + 128, found["ubinary"])
    assert np.array(found["int8"]).shape == expected.shape
    assert (found["texts"], found["tokens"]) == (TEXTS, 14)
    assert "input_type: Invalid enum value 'image'" in found["refused"]


def test_cohere_v1(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "cohere_v1")
    assert same(found["plain"], expected)
    assert same(found["float"], expected)


def test_ollama(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "ollama")
    assert same(found["several"], expected)
    assert found["tokens"] == 14
    assert "Text 0 has 1602 tokens and the model reads 256" in found["refused"]


def test_infinity(live: Any, ask: Callable[[str, str], Any], expected: np.ndarray) -> None:
    found = ask(live.url, "infinity")
    assert same(found["documents"], expected)
    assert found["tokens"] == 14
    assert "the list is empty" in found["refused"]
    name = httpx.get(f"{live.url}/info", timeout=60).json()["model_id"]
    assert (found["models"], found["health"]) == ([[name, ["embed"]]], {"status": "ok"})


@pytest.fixture(scope="module")
def ranking(bundle: Path, rerank_bundle: Path) -> Iterator[Any]:
    with launched(str(bundle), "--reranker", str(rerank_bundle)) as server:
        yield server


def test_rerank_clients(ranking: Any, ask: Callable[[str, str], Any]) -> None:
    documents = [*TEXTS, "open()"]
    plain = httpx.post(f"{ranking.url}/rerank", json={"query": TEXTS[0], "texts": documents}, timeout=60).json()
    expected = [(each["index"], pytest.approx(each["score"], abs=1e-3)) for each in plain[:2]]
    found = ask(ranking.url, "infinity_rerank")
    assert [tuple(each) for each in found["results"]] == expected
    assert found["documents"] == [documents[each["index"]] for each in plain[:2]]
    for version, results in ask(ranking.url, "cohere_rerank").items():
        assert [tuple(each) for each in results] == expected, version
