"""What clients of other servers send besides their main route: paths, older versions, and options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from embedship.golden_texts import REAL, GoldenTexts
from embedship.serve.http.routes import routes

LONG = "many words about nothing in particular " * 200


@pytest.fixture(scope="module")
def golden(api: Any) -> GoldenTexts:
    """Real texts and the vectors that the checkpoint itself gives for them."""
    loaded = GoldenTexts.load(api.service.bundle)
    return replace(loaded, texts=loaded.real, ids=loaded.ids[-REAL:], vectors=loaded.vectors[-REAL:])


def require_right(found: Any, golden: GoldenTexts) -> None:
    """Fail unless the rows are unit vectors close to those of the checkpoint (the floor of int8 is 0.97)."""
    rows = np.asarray(found, dtype=np.float32)
    assert rows.shape == golden.vectors.shape
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    assert np.sum(rows * golden.vectors, axis=1).min() > 0.97


def test_cohere_v1_answers_with_vectors_or_by_type(api: Any, golden: GoldenTexts) -> None:
    texts = golden.texts
    plain = api.post("/v1/embed", {"texts": texts, "model": "m", "input_type": None, "truncate": "END"}).json()
    assert (plain["response_type"], plain["texts"]) == ("embeddings_floats", texts)
    assert plain["meta"]["api_version"] == {"version": "1"}
    require_right(plain["embeddings"], golden)
    typed = {"texts": texts, "input_type": "search_document", "embedding_types": ["float", "int8"]}
    first, second = api.post("/v1/embed", typed).json(), api.post("/v2/embed", typed).json()
    assert first["response_type"] == "embeddings_by_type"
    assert first["embeddings"] == second["embeddings"]


@pytest.mark.parametrize(
    ("options", "field"),
    [({"texts": []}, "texts"), ({"truncate": "START"}, "truncate"), ({"embedding_types": []}, "embedding_types"),
     ({"output_dimension": 5}, "output_dimension"), ({"input_type": "image"}, "input_type")],
)  # fmt: skip
def test_cohere_v1_refuses_what_it_cannot_do(api: Any, options: Any, field: str) -> None:
    answer = api.post("/v1/embed", {"texts": ["a", "b"], **options})
    assert answer.status_code == 400
    assert set(answer.json()) == {"message", "id"}
    assert field in answer.json()["message"]


def test_ollama_embed(api: Any, golden: GoldenTexts) -> None:
    usual = {"model": "m", "keep_alive": "5m", "options": {"temperature": 0, "num_ctx": 8192, "seed": None}}
    reply = api.post("/api/embed", {"input": golden.texts, **usual}).json()
    require_right(reply["embeddings"], golden)
    assert reply["model"] == api.service.bundle.manifest.source.name
    assert reply["prompt_eval_count"] == sum(map(len, golden.ids))
    assert reply["total_duration"] > 0
    one = api.post("/api/embed", {"input": "a", "truncate": None, "options": None}).json()
    assert len(one["embeddings"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": []}, 422, "input: the list is empty"),
        ({"input": "a", "options": {"num_ctx": 8}}, 422, "options.num_ctx: 8 is below"),
        (
            {"input": "a", "options": {"embedding_only": True}},
            422,
            "options: Object contains unknown field",
        ),
        ({"input": "a", "dimensions": 3}, 422, "dimensions: the model was not trained for 3"),
        ({"input": "a", "template": "x"}, 422, "unknown field `template`"),
        ({"input": LONG, "truncate": False}, 413, "tokens and the model reads"),
    ],
)
def test_ollama_refuses_what_would_change_the_vectors(api: Any, body: Any, status: int, says: str) -> None:
    answer = api.post("/api/embed", body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("path", ["/embed/", "/v1/embeddings/", "/health/", "/v1/models/", "/v2/embed/"])
def test_a_slash_at_the_end_makes_no_difference(api: Any, path: str) -> None:
    bodies = {"/embed/": {"inputs": "a"}, "/v1/embeddings/": {"input": "a"},
              "/v2/embed/": {"texts": ["a"], "input_type": "search_query"}}  # fmt: skip
    answer = api.post(path, bodies[path]) if path in bodies else api.ask("GET", path)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/embed//", "//", "/nowhere/"])
def test_other_paths_stay_unknown(api: Any, path: str) -> None:
    assert api.ask("GET", f"http://test{path}").status_code == 404


def test_the_root_says_what_runs_here_and_counts_as_a_check(api: Any) -> None:
    before = [api.metric("embedship_requests_total", route=route, status="2xx") for route in ("/", "/health")]
    answer = api.ask("GET", "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text.startswith("embedship is running.")
    assert api.ask("HEAD", "/").status_code == 200
    after = [api.metric("embedship_requests_total", route=route, status="2xx") for route in ("/", "/health")]
    assert [now - then for then, now in zip(before, after, strict=True)] == [0, 2]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/v1/embeddings", {"input": []}, 400), ("/embeddings", {"input": []}, 422),
     ("/v2/embed", {"texts": [], "input_type": "clustering"}, 400),
     ("/embed", {"inputs": []}, 422), ("/v1/encode", {"texts": []}, 422)],
)  # fmt: skip
def test_an_empty_batch_is_refused_by_every_route(api: Any, path: str, body: Any, status: int) -> None:
    answer = api.post(path, body)
    assert answer.status_code == status
    assert "the list is empty" in answer.text


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The struct types that a type consists of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from structs(field.type)
    for inner in get_args(kind):
        yield from structs(inner)


def accepts_null(kind: Any) -> bool:
    try:
        msgspec.convert(None, kind)
    except msgspec.ValidationError:
        return False
    return True


def test_every_optional_field_may_be_null(api: Any) -> None:
    """Clients in Java, Go and TypeScript send null for options that are not set."""
    refused = []
    for route in routes(api.state, api.service, api.app.reload):
        for struct in structs(route.request_type):
            for field in msgspec.structs.fields(struct):
                if not field.required and not accepts_null(field.type):
                    refused.append(f"{struct.__name__}.{field.name}")
    assert refused == []


@pytest.mark.parametrize(
    ("path", "body", "nulls"),
    [("/v1/encode", {"texts": ["a"]}, ("dtype", "truncate", "prompt_name", "dimensions")),
     ("/tokenize", {"inputs": "a"}, ("add_special_tokens", "prompt_name")),
     ("/decode", {"ids": [101, 1037, 102]}, ("skip_special_tokens",)),
     ("/embeddings", {"input": "a"}, ("modality", "dimensions", "encoding_format")),
     ("/embed", {"inputs": "a"}, ("normalize", "truncate", "prompt_name", "parameters"))],
)  # fmt: skip
def test_null_means_the_default(api: Any, path: str, body: Any, nulls: tuple[str, ...]) -> None:
    answer = api.post(path, {**body, **dict.fromkeys(nulls)})
    assert answer.status_code == 200, answer.text
    assert answer.json() == api.post(path, body).json()
