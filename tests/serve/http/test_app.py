"""Every route in this process: the shapes of answers and errors, what is counted, and what OpenAPI says of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openapi_spec_validator
import pytest

from embedship.bundle import REFERENCE, Bundle, fingerprint
from embedship.encoder import Encoder
from embedship.errors import GateError, MismatchError, UnsafeError, UsageError
from embedship.golden_texts import ALONE_FLOOR, GoldenTexts
from embedship.monitor.assets.recording import QUIET, RERANKED
from embedship.monitor.drift.reference import DriftReference
from embedship.serve import schemas
from embedship.serve.errors import FAILURES, REJECTIONS, FlatError, OpenAIError
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import CLASSES, OTHER
from embedship.serve.telemetry.request_context import Priority

from ..conftest import opened

TEXTS = ["How do I open a file?", "Read a CSV with a header row.", "zip two lists"]
ROUTES = {
    ("POST", "/v1/embeddings"), ("POST", "/embed"), ("POST", "/"), ("POST", "/search"), ("POST", "/feedback"),
    ("GET", "/health"), ("GET", "/ready"), ("GET", "/info"), ("GET", "/monitor"), ("GET", "/monitor/ui"),
    ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/models"), ("GET", "/v1/models/{model}"),
    ("POST", "/similarity"), ("POST", "/tokenize"), ("POST", "/decode"), ("POST", "/embeddings"), ("GET", "/models"),
    ("POST", "/v2/embed"), ("POST", "/v1/encode"), ("POST", "/admin/reload"),
    ("PUT", "/documents"), ("GET", "/documents/{id}"), ("DELETE", "/documents/{id}"),
    ("POST", "/rerank"), ("POST", "/v1/rerank"), ("POST", "/v2/rerank"), ("GET", "/"), ("POST", "/v1/embed"),
    ("POST", "/api/embed"), ("POST", "/score"), ("POST", "/v1/score"),
}  # fmt: skip
LONG = "many words about nothing in particular " * 200


@pytest.fixture(scope="module")
def expected(bundle: Path) -> np.ndarray:
    with Encoder.open(bundle) as encoder:
        return encoder.encode(TEXTS)


def close(left: Any, right: np.ndarray) -> bool:
    """The same vectors, but for the kernel a batch of another size takes."""
    found = np.asarray(left, dtype=np.float32)
    return found.shape == right.shape and bool((np.sum(found * right, axis=1) > ALONE_FLOOR).all())


def test_openai_shape(api: Any, expected: np.ndarray) -> None:
    answer = api.post("/v1/embeddings", {"input": TEXTS, "model": "whatever", "user": "me", "new_option": 1})
    assert answer.status_code == 200
    reply = answer.json()
    assert set(reply) == {"object", "data", "model", "usage"}
    assert [(item["object"], item["index"]) for item in reply["data"]] == [("embedding", i) for i in range(3)]
    assert close([item["embedding"] for item in reply["data"]], expected)
    assert reply["object"] == "list"
    assert reply["model"] == api.service.bundle.manifest.source.name
    tokens = sum(api.service.encoder.tokenizer(TEXTS).lengths)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_holds_the_same_float32(api: Any) -> None:
    plain, packed = (
        api.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": form}).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    )
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), dtype="<f4"), np.float32(plain))


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei_shape(api: Any, path: str, expected: np.ndarray) -> None:
    assert close(api.post(path, {"inputs": TEXTS}).json(), expected)
    one = api.post(path, {"inputs": TEXTS[1], "normalize": True, "truncate": True, "truncation_direction": "Right"})
    assert close(one.json(), expected[1:2])


def test_dimensions_cut_and_renormalise(altered: Path) -> None:
    """The same model, said to be a Matryoshka one."""
    manifest = Bundle.open(altered).manifest
    pipeline = msgspec.structs.replace(manifest.pipeline, dimensions=(384, 64))
    stamp = fingerprint(manifest.source, pipeline, manifest.tokenizer_sha256)
    Bundle.write(altered, msgspec.structs.replace(manifest, pipeline=pipeline, fingerprint=stamp))
    with opened(Settings(bundle=altered)) as asked:
        whole = np.array(asked.post("/embed", {"inputs": TEXTS[:2]}).json())
        short = np.array(asked.post("/embed", {"inputs": TEXTS[:2], "dimensions": 64}).json())
        openai = asked.post("/v1/embeddings", {"input": TEXTS[0], "dimensions": 64}).json()["data"][0]["embedding"]
        assert asked.post("/embed", {"inputs": TEXTS[0], "dimensions": 65}).status_code == 422
    expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-5)
    np.testing.assert_allclose(openai, expected[0], atol=1e-5)


def test_one_text_of_every_route_carries_the_fingerprint(api: Any) -> None:
    for method, path in (*ROUTES, ("GET", "/nowhere"), ("PUT", "/embed")):
        assert api.ask(method, path).headers["x-embedship-fingerprint"] == api.service.bundle.fingerprint


def test_truncation_is_counted_told_and_refused_on_demand(api: Any) -> None:
    before = api.metric("embedship_truncated_texts_total")
    answer = api.post("/embed", {"inputs": ["short", LONG, LONG]})
    assert answer.headers["x-embedship-truncated"] == "2"
    assert api.metric("embedship_truncated_texts_total") == before + 2
    assert api.post("/embed", {"inputs": "short", "truncate": False}).headers["x-embedship-truncated"] == "0"
    refused = api.post("/embed", {"inputs": ["short", LONG], "truncate": False})
    assert refused.status_code == 413
    assert re.match(r"Text 1 has \d{4} tokens and the model reads \d+: shorten it", refused.json()["error"])


BAD = [
    # body, what the sentence must say
    (b"", "body is empty"),
    (b"{", "not valid JSON"),
    (b"[]", "Expected `object`, got `array`"),
    (b'{"FIELD": NaN}', "not valid JSON"),
    (b'{"FIELD": "\xff\xfe"}', "UTF-8"),
    (b'{"FIELD": "\\ud800 alone"}', "half of a surrogate pair"),
    (b'{"FIELD": "\\udc00"}', "half of a surrogate pair"),
    (b'{"FIELD": ' + b"[" * 90_000, "array"),  # and no RecursionError
    (b"[" * 90_000, "got `array`"),
    (b"{}", "missing required field `FIELD`"),
    (b'{"FIELD": []}', "FIELD: the list is empty"),
    (b'{"FIELD": null}', "FIELD: Expected `str | array`, got `null`"),
    (b'{"FIELD": ["a", null]}', "FIELD[1]: Expected `str`, got `null`"),
    (b'{"FIELD": {"a": 1}}', "FIELD: Expected `str | array`, got `object`"),
]


@pytest.mark.parametrize(("body", "says"), BAD)
@pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "input"), ("/embed", "inputs"), ("/search", "query")])
def test_bad_bodies_get_a_sentence(api: Any, path: str, field: str, body: bytes, says: str) -> None:
    answer = api.ask("POST", path, content=body.replace(b"FIELD", field.encode()))
    assert 400 <= answer.status_code < 500
    kind = OpenAIError if path.startswith("/v1") else FlatError
    error = msgspec.json.decode(answer.content, type=kind).error
    assert says.replace("FIELD", field) in (error if isinstance(error, str) else error.message)


WRONG = [
    ("/v1/embeddings", {"input": [1, 2]}, 400, "check_embedding_ctx_length=False"),
    ("/v1/embeddings", {"input": [[1, 2]]}, 400, "check_embedding_ctx_length=False"),
    ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, 400, "encoding_format: Invalid enum value 'int8'"),
    ("/v1/embeddings", {"input": "a", "dimensions": 3}, 400, "the model was not trained for 3 dimensions"),
    ("/v1/embeddings", {"input": "a", "dimensions": 0}, 400, "dimensions: Expected `int` >= 1"),
    ("/v1/embeddings", {"input": ["a"] * 65}, 413, "input: 65 texts; the maximum is 64"),
    ("/embed", {"inputs": [1]}, 422, "check_embedding_ctx_length=False"),
    (
        "/embed",
        {"inputs": "a", "trunkate": False},
        422,
        "The fields of this route are: inputs, norm",
    ),
    ("/embed", {"inputs": "a", "truncation_direction": "left"}, 422, "only truncates on the right"),
    ("/embed", {"inputs": "a", "prompt_name": "no"}, 422, "no prompt named 'no'; it has: document, query"),
    ("/embed", {"inputs": "a", "parameters": {"truncate": True}}, 422, "next to `inputs`"),
    ("/embed", {"inputs": ["a", "b" * 10_001]}, 413, "text 1 has 10001 characters; the maximum is 10000"),
    ("/embed", {"inputs": ["a" * 9_999] * 11}, 413, "larger than 100000 bytes"),
    ("/search", {"query": "a", "k": 0}, 422, "k: Expected `int` >= 1"),
    ("/search", {"query": "a", "k": 1001}, 422, "k: 1001 hits are too many"),
    (
        "/search",
        {"query": "a", "top_k": 5},
        422,
        "unknown field `top_k`. The fields of this route are: query, k",
    ),
    ("/search", {"query": "a"}, 409, "--index INDEX"),
]


@pytest.mark.parametrize(("path", "body", "status", "says"), WRONG)
def test_wrong_requests_say_what_to_change(api: Any, path: str, body: Any, status: int, says: str) -> None:
    answer = api.post(path, body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


def test_a_chunked_body_is_measured_too(api: Any) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 10_000

    assert api.ask("POST", "/embed", content=chunks()).status_code == 413


def test_wrong_path_and_method_name_the_right_ones(api: Any) -> None:
    lost = api.ask("GET", "/v1/embedding")
    assert lost.status_code == 404
    assert "POST /v1/embeddings" in lost.json()["error"]["message"]
    wrong = api.ask("GET", "/v1/embeddings")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert api.ask("HEAD", "/health").status_code == 200


def test_probes_and_info(api: Any) -> None:
    assert api.ask("GET", "/health").json() == {"status": "ok"}
    assert api.ask("GET", "/ready").json()["ready"] is True
    info = msgspec.json.decode(api.ask("GET", "/info").content, type=schemas.Info)
    assert info.fingerprint == api.service.bundle.fingerprint
    assert info.golden.minimum > 0.9
    assert info.index is None


def test_a_draining_server_answers_but_is_not_ready(fresh: Callable[..., Any]) -> None:
    api = fresh()
    assert api.metric("embedship_ready") == 1
    api.state.drain.begin(quiet_seconds=1.0)
    assert api.ask("GET", "/ready").status_code == 503
    assert api.metric("embedship_ready") == 0
    answer = api.post("/embed", {"inputs": "a"})
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_only_requests_that_somebody_waits_for_work(api: Any) -> None:
    """Probes come again and again: they would keep a draining server for ever."""
    routes = [route for methods in api.app._current_route_table().paths.values() for route in methods.values()]
    bare = {f"{route.method} {route.path}" for route in routes if route.has_deadline and route.request_type is None}
    assert bare == {"GET /documents/{id}", "DELETE /documents/{id}"}
    assert all(route.has_deadline for route in routes if route.request_type is not None)


def test_dead_streams_are_unhealthy(fresh: Callable[..., Any]) -> None:
    api = fresh()
    api.service.workers.close()
    answer = api.ask("GET", "/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "failed"})


def test_a_full_queue_is_429_in_both_shapes(fresh: Callable[..., Any]) -> None:
    api = fresh(queue_texts=8, max_texts=4)
    with api.state.admissions.embed.acquire(8, Priority.INTERACTIVE):
        for path, body in (("/v1/embeddings", {"input": "a"}), ("/embed", {"inputs": "a"})):
            answer = api.post(path, body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
    assert api.post("/embed", {"inputs": "a"}).status_code == 200
    assert api.metric("embedship_rejections_total", reason="overloaded") == 2


def test_an_internal_error_is_a_sentence_a_count_and_a_line_in_the_log(
    fresh: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    api = fresh()
    api.service.inference.close()  # its threads refuse work from now on: a bug nobody foresaw
    answer = api.post("/v1/embeddings", {"input": LONG})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "Traceback" not in answer.text
    assert "cannot schedule new futures" in caplog.text
    assert api.metric("embedship_failures_total", reason="internal") == 1
    assert api.metric("embedship_requests_total", route="/v1/embeddings", status="5xx") == 1


def test_every_series_is_there_before_the_first_request(fresh: Callable[..., Any]) -> None:
    api = fresh()
    for path in [*(path for _, path in ROUTES), OTHER]:
        assert api.metric("embedship_request_seconds_count", route=path) == 0
        for status in CLASSES:
            assert api.metric("embedship_requests_total", route=path, status=status) == 0
    for reason in REJECTIONS:
        assert api.metric("embedship_rejections_total", reason=reason) == 0
    for reason in FAILURES:
        assert api.metric("embedship_failures_total", reason=reason) == 0
    for name in ("tokenise_seconds_count", "serialise_seconds_count", "batch_texts_count", "tokens_total",
                 "queue_texts", "batch_tokens_count", "batch_padding_ratio_count", "padded_tokens_total", "texts_total",
                 "truncated_texts_total", "permits_in_use"):  # fmt: skip
        assert api.metric(f"embedship_{name}") == 0
    for lane in Priority:
        assert api.metric("embedship_queue_seconds_count", lane=lane) == 0
        assert api.metric("embedship_queue_age_seconds", lane=lane) == 0
    for device in api.service.workers.devices:
        assert api.metric("embedship_inference_seconds_count", device=device) == 0
    answer = api.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'embedship_info{{fingerprint="{api.service.bundle.fingerprint}"' in answer.text
    assert 'embedship_recall_state{source="shadow",state="unknown"} 1.0' in answer.text


def test_every_route_that_somebody_waits_for_is_in_the_ratios(api: Any) -> None:
    """One that is left out could fail and page nobody."""
    counted = set(re.findall(r'embedship_requests_total{route="([^"]*)"', api.ask("GET", "/metrics").text))
    asked = {path for method, path in ROUTES if method != "GET" and path != "/admin/reload"} | {RERANKED}
    assert {route for route in counted if not re.fullmatch(QUIET, route)} == asked


def test_counts_add_up(fresh: Callable[..., Any]) -> None:
    api = fresh()
    api.post("/embed", {"inputs": TEXTS})
    api.post("/embed", {"inputs": []})
    api.ask("GET", "/nowhere")
    api.ask("GET", "/also/nowhere")
    assert api.metric("embedship_texts_total") == 3
    assert api.metric("embedship_tokens_total") == sum(api.service.encoder.tokenizer(TEXTS).lengths)
    assert api.metric("embedship_padded_tokens_total") >= api.metric("embedship_tokens_total")
    assert api.metric("embedship_requests_total", route="/embed", status="2xx") == 1
    assert api.metric("embedship_requests_total", route="/embed", status="4xx") == 1
    assert api.metric("embedship_requests_total", route=OTHER, status="4xx") == 2
    assert api.metric("embedship_rejections_total", reason="invalid") == 1
    assert api.metric("embedship_rejections_total", reason="unknown_path") == 2


def test_openapi_describes_every_route_and_refers_to_nothing_missing(api: Any) -> None:
    document = api.ask("GET", "/openapi.json").json()
    openapi_spec_validator.validate(document)
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == ROUTES
    for reference in re.findall(r'"\$ref":"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()):
        assert reference in document["components"]["schemas"]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    posts = document["paths"]["/search"]["post"]["responses"]
    assert {"200", "400", "409", "413", "422", "424", "429", "500"} <= set(posts)


@pytest.mark.parametrize(("path", "body", "status", "says"), WRONG)
def test_openapi_announces_every_status_it_answers_with(api: Any, path: str, body: Any, status: int, says: str) -> None:
    document = api.ask("GET", "/openapi.json").json()
    assert str(status) in document["paths"][path]["post"]["responses"]


def test_queries_are_shown_to_the_monitor_and_documents_are_not(fresh: Callable[..., Any]) -> None:
    api = fresh()
    api.post("/embed", {"inputs": TEXTS, "prompt_name": "query"})
    assert api.metric("embedship_monitor_queries_total") == 3
    api.post("/embed", {"inputs": TEXTS, "prompt_name": "document"})
    api.post("/v1/embeddings", {"input": TEXTS})
    assert api.metric("embedship_monitor_queries_total") == 3


def test_wrong_golden_vectors_keep_the_server_from_starting(altered: Path) -> None:
    opened = Bundle.open(altered)
    right = GoldenTexts.load(opened)
    (altered / "golden.safetensors").unlink()  # a hard link to the real one
    GoldenTexts(right.texts, right.ids, np.roll(right.vectors, 1, axis=0)).save(altered / "golden.safetensors")
    Bundle.write(altered, opened.manifest)
    with pytest.raises(GateError, match="golden check failed"):
        ServerState.open(Settings(bundle=altered))


def test_the_reference_of_another_model_keeps_the_server_from_starting(altered: Path) -> None:
    vectors = GoldenTexts.load(Bundle.open(altered)).vectors
    DriftReference.fit(vectors, "0" * 64).save(altered / REFERENCE)
    with pytest.raises(MismatchError, match="belongs to model 000000000000"):
        ServerState.open(Settings(bundle=altered))
    (altered / REFERENCE).write_bytes(b"not a reference")
    with pytest.raises(UnsafeError):
        ServerState.open(Settings(bundle=altered))
    with pytest.raises(UsageError, match="is not a drift reference"):
        ServerState.open(Settings(bundle=altered, reference=altered / "none"))


def test_a_reference_of_this_model_is_taken(altered: Path) -> None:
    bundle = Bundle.open(altered)
    reference = DriftReference.fit(GoldenTexts.load(bundle).vectors, bundle.fingerprint)
    reference.save(altered / REFERENCE)
    with ServerState.open(Settings(bundle=altered)) as state:
        seen = state.registry.get_sample_value("embedship_drift_reference_queries")
        assert seen == len(reference.vectors) > 20
