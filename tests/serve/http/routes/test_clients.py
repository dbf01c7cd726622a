"""What clients of other servers send besides their main route: paths, older versions, and options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedship.golden_texts import REAL, GoldenTexts

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
        ({"input": "a", "options": {"num_ctx": 8}}, 422, "options.num_ctx: 8 below"),
        ({"input": "a", "options": {"embedding_only": True}}, 422, "options.embedding_only: True is not supported"),
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
