"""Options that other services add to /v1/embeddings and /embeddings: each is honoured or refused, none is ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.bundle import ModelSpec
from embedship.serve.errors import Invalid
from embedship.serve.http.routes.embedding_options import VectorOptions, resolve
from embedship.serve.http.routes.infinity import InfinityRequest
from embedship.serve.schemas import EmbeddingsRequest

TEXT = "How do I open a file?"
LONG = "many words about nothing in particular " * 200


@pytest.fixture(scope="module")
def model(api: Any) -> ModelSpec:
    """The model of the tests, with two prompts and a short dimension, which does not normalise."""
    pipeline: ModelSpec = api.service.bundle.manifest.pipeline
    return msgspec.structs.replace(
        pipeline, prompts={"query": "q: ", "passage": "p: "}, dimensions=(384, 64), normalised=False
    )


def resolved(model: ModelSpec, **options: Any) -> VectorOptions:
    return resolve(msgspec.convert({"input": "a", **options}, EmbeddingsRequest), model)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"input_type": "query"}, {"prompt_name": "query"}),
        ({"input_type": "document"}, {"prompt_name": "passage"}),
        ({"input_type": "passage"}, {"prompt_name": "passage"}),
        ({"task": "retrieval.query"}, {"prompt_name": "query"}),
        ({"task": "retrieval.passage"}, {"prompt_name": "passage"}),
        ({"task": "text-matching"}, {}),
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"output_dimension": 64}, {"dimensions": 64}),
        ({"output_dimension": 64, "dimensions": 64}, {"dimensions": 64}),
        ({"truncation": False}, {"truncate": False}),
        ({"truncate": "NONE"}, {"truncate": False}),
        ({"truncate": False}, {"truncate": False}),
        ({"truncate": "END", "truncation": True}, {}),
        ({"embedding_type": "base64"}, {"base64": True}),
        ({"embedding_type": ["float"]}, {}),
        ({"normalized": True}, {"normalise": True}),
        ({"normalize": True, "normalized": True}, {"normalise": True}),
        ({"normalized": False}, {}),
        ({"output_dtype": "float", "late_chunking": False, "add_special_tokens": True}, {}),
        ({"truncate_prompt_tokens": -1, "return_multivector": False}, {}),
        (dict.fromkeys(set(EmbeddingsRequest.__struct_fields__) - {"input", "model"}), {}),
    ],
)  # fmt: skip
def test_an_option_of_another_service_is_honoured(model: ModelSpec, options: Any, expected: Any) -> None:
    assert resolved(model, **options) == VectorOptions(None, None, True, False, False)._replace(**expected)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"input_type": "image"}, "input_type"),
        ({"task": "retrieval"}, "task"),
        ({"input_type": "query", "prompt_name": "query"}, "input_type"),
        ({"output_dimension": 65}, "output_dimension"),
        ({"output_dimension": 64, "dimensions": 384}, "output_dimension"),
        ({"output_dtype": "int8"}, "output_dtype"),
        ({"embedding_type": "binary"}, "embedding_type"),
        ({"embedding_type": ["float", "base64"]}, "embedding_type"),
        ({"embedding_type": "base64", "encoding_format": "float"}, "embedding_type"),
        ({"late_chunking": True}, "late_chunking"),
        ({"return_multivector": True}, "return_multivector"),
        ({"truncate": "START"}, "truncate"),
        ({"truncation_direction": "left"}, "truncation_direction"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"instruction": "Represent this"}, "instruction"),
        ({"prompt": "search: "}, "prompt"),
        ({"normalized": False, "dimensions": 64}, "normalized"),
        ({"normalized": False, "output_dimension": 64}, "normalized"),
        ({"normalized": False, "normalize": True}, "normalized"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(model: ModelSpec, options: Any, field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}: ") as caught:
        resolved(model, **options)
    assert caught.value.param == field


def test_every_option_is_tested(model: ModelSpec) -> None:
    """A new option must be honoured or refused, so that it is not ignored."""
    neutral = {"input", "model", "user", "encoding_format", "dimensions"}
    tested = {"input_type", "task", "prompt_name", "output_dimension", "output_dtype", "truncation", "truncate",
              "truncation_direction", "truncate_prompt_tokens", "embedding_type", "normalized", "normalize",
              "late_chunking", "return_multivector", "add_special_tokens", "instruction", "prompt"}  # fmt: skip
    assert set(EmbeddingsRequest.__struct_fields__) == neutral | tested
    assert set(InfinityRequest.__struct_fields__) == neutral | tested | {"modality"}


@pytest.mark.parametrize(("path", "status"), [("/v1/embeddings", 400), ("/embeddings", 422)])
def test_the_routes_follow_the_options(api: Any, path: str, status: int) -> None:
    refused = api.post(path, {"input": TEXT, "output_dtype": "int8"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, "output_dtype")
    assert api.post(path, {"input": LONG, "truncation": False}).status_code == 413
    plain, query = (
        api.post(path, {"input": TEXT, **options}).json()["data"][0]["embedding"]
        for options in ({}, {"input_type": "query", "output_dimension": 384, "truncation": True})
    )
    assert len(query) == len(plain) == 384
    assert api.post(path, {"input": TEXT, "prompt_name": "nope"}).status_code == status


def test_the_defaults_of_haystack_are_accepted(api: Any) -> None:
    """HuggingFaceAPITextEmbedder sends them: this model normalises its vectors itself, as its checkpoint does."""
    plain = api.post("/embed", {"inputs": TEXT}).json()
    answer = api.post("/embed", {"inputs": TEXT, "truncate": True, "normalize": False})
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json(), plain, atol=1e-5)
