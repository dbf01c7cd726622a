"""POST /v1/encode gives, in every precision, exactly the bundle's codes of the vectors that /embed gives."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from embedship.codes import binary, to_float16

TEXTS = ["How do I open a file?", "Read a CSV with a header row.", "zip two lists"]
LONG = "many words about nothing in particular " * 200
BYTES = {"Accept": "application/octet-stream"}


@pytest.fixture(scope="module")
def vectors(api: Any) -> np.ndarray:
    """As JSON gives them: enough digits to bring each float32 back."""
    return np.array([api.post("/embed", {"inputs": text}).json()[0] for text in TEXTS], dtype=np.float32)


def codes_of(api: Any, vectors: np.ndarray, dtype: str) -> np.ndarray:
    codes = api.service.bundle.manifest.codes
    match dtype:
        case "float32":
            return vectors
        case "float16":
            return to_float16(vectors)
        case "int8":
            return codes.scale(vectors.shape[1]).encode(vectors)
        case _:
            return binary(vectors, codes.binary_threshold)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "ubinary"])
def test_bytes_and_json_are_the_codes_of_the_bundle(api: Any, vectors: np.ndarray, dtype: str) -> None:
    kind = {"ubinary": "u1", "int8": "i1", "float16": "<f2", "float32": "<f4"}[dtype]
    for row, text in zip(vectors, TEXTS, strict=True):
        wanted = codes_of(api, row[None], dtype)
        answer = api.ask("POST", "/v1/encode", json={"texts": text, "dtype": dtype}, headers=BYTES)
        assert answer.headers["content-type"] == "application/octet-stream"
        shape = tuple(map(int, answer.headers["x-embedship-shape"].split(",")))
        np.testing.assert_array_equal(np.frombuffer(answer.content, kind).reshape(shape), wanted)
        assert answer.headers["x-embedship-dtype"] == dtype
        told = api.post("/v1/encode", {"texts": text, "dtype": dtype}).json()
        np.testing.assert_array_equal(np.array(told["vectors"], dtype=wanted.dtype), wanted)
        assert (told["shape"], told["fingerprint"]) == (list(wanted.shape), api.service.bundle.fingerprint)


def test_what_was_cut_is_said_of_each_text(api: Any) -> None:
    answer = api.post("/v1/encode", {"texts": ["short", LONG]})
    told = answer.json()
    limit = api.service.bundle.manifest.pipeline.max_tokens
    assert told["tokens"] == [3, limit]
    assert told["cut"][0] == 0 < told["cut"][1]
    assert answer.headers["x-embedship-cut"] == f"1={told['cut'][1]}"
    assert answer.headers["x-embedship-tokens"] == str(3 + limit)
    refused = api.post("/v1/encode", {"texts": ["short", LONG], "truncate": False})
    assert refused.status_code == 413
    assert f"Text 1 has {limit + told['cut'][1]} tokens" in refused.json()["error"]


def test_cohere_gives_the_same_codes(api: Any, vectors: np.ndarray) -> None:
    kinds = ["float", "int8", "binary", "ubinary", "base64"]
    body = {"texts": TEXTS[:1], "input_type": "search_document", "embedding_types": kinds, "model": "any"}
    reply = api.post("/v2/embed", body).json()
    told, row = reply["embeddings"], vectors[:1]
    assert set(told) == set(kinds)
    np.testing.assert_array_equal(np.float32(told["float"]), row)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(told["base64"][0]), "<f4"), row[0])
    np.testing.assert_array_equal(told["int8"], codes_of(api, row, "int8"))
    np.testing.assert_array_equal(told["ubinary"], np.packbits(row > 0, axis=1))
    np.testing.assert_array_equal(np.array(told["binary"]) + 128, told["ubinary"])
    assert reply["meta"]["billed_units"]["input_tokens"] == api.service.encoder.tokenizer(TEXTS[:1]).lengths[0]


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"embedding_types": ["uint8"]}, 400, "uint8"),
        ({"embedding_types": []}, 400, "embedding_types: the list is empty"),
        ({"truncate": "START"}, 400, "only truncates at the end"),
        ({"truncate": "NONE", "texts": [LONG]}, 413, "Text 0 has"),
        ({"output_dimension": 5}, 400, "output_dimension: the model was not trained for 5"),
        ({"input_type": "image"}, 400, "image"),
        ({"images": ["data:"]}, 400, "unknown field `images`"),
    ],
)
def test_cohere_refuses_what_it_cannot_give(api: Any, more: Any, status: int, says: str) -> None:
    answer = api.post("/v2/embed", {"texts": ["a"], "input_type": "clustering", **more})
    assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text


def test_cohere_warns_of_what_was_cut(api: Any) -> None:
    reply = api.post("/v2/embed", {"texts": ["short", LONG], "input_type": "clustering"}).json()
    assert [warning.split(" was")[0] for warning in reply["meta"]["warnings"]] == ["Text 1"]
