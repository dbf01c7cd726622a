"""The re-ranker of a server: the checkpoint's own scores, in every dialect, and in searches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embedship.errors import UsageError
from embedship.monitor.assets.recording import RERANKED
from embedship.monitor.state import SignalState
from embedship.serve.http.routes.info import info
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

from ..pages import check, examples
from .conftest import Asked, launched, opened

QUERY = "How do I copy a file?"
# What the plain float32 graph may differ by from the checkpoint, whose logits have a spread of about 1.
CLOSE = 1e-3
# Of two requests whose scores shall be equal: batches of the other lane are smaller for a second after a query.
SAME = {"X-Embedship-Lane": "interactive"}


@pytest.fixture(scope="module")
def ranking(settings: Settings, rerank_bundle: Path, index_folder: Path) -> Settings:
    return replace(settings, reranker=rerank_bundle, index=index_folder, shadow_rate=0.0)


@pytest.fixture(scope="module")
def ranks(ranking: Settings) -> Iterator[Asked]:
    with opened(ranking) as asked:
        yield asked


@pytest.fixture(scope="module")
def texts(passages: list[dict[str, Any]]) -> list[str]:
    """Of all lengths, one of them empty, and one longer than the model reads."""
    return [*(row["text"] for row in passages[:20]), "", "shutil copies files " * 100]


@pytest.fixture(scope="module")
def logits(cross_encoder: Path) -> Callable[[str, list[str]], np.ndarray]:
    """The checkpoint's own, one pair at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(cross_encoder))
    model = AutoModelForSequenceClassification.from_pretrained(str(cross_encoder)).eval()

    def score(query: str, texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            # In lists, as sentence-transformers does: alone, an empty passage would be taken for none.
            pairs = [tokenizer([query], [text], truncation=True, max_length=128, return_tensors="pt") for text in texts]
            return np.array([model(**pair).logits.item() for pair in pairs])

    return score


def by_place(ranked: list[dict[str, Any]], key: str = "score") -> np.ndarray:
    scores = [each[key] for each in ranked]
    assert scores == sorted(scores, reverse=True), "best first"
    return np.array([score for _, score in sorted((each["index"], each[key]) for each in ranked)])


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """The worst difference in units of the spread; int8 may be the one measured best here."""
    return float(np.abs(found - expected).max() / expected.std())


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_the_scores_are_the_checkpoint_s(
    rerank_bundle: Path, ranking: Settings, texts: list[str], logits: Callable[..., np.ndarray]
) -> None:
    """By the float32 graph, whichever is fastest here; texts of all lengths share batches."""
    from embedship.bundle import Task
    from embedship.encoder import Encoder

    expected = logits(QUERY, texts)
    with Encoder.open(rerank_bundle, "onnx", task=Task.RERANK) as encoder:
        alone = encoder.encode([(QUERY, text) for text in texts])[:, 0]
    assert off(alone, expected) < CLOSE


def test_tei(ranks: Asked, texts: list[str], logits: Callable[..., np.ndarray]) -> None:
    raw = ranks.post("/rerank", {"query": QUERY, "texts": texts, "raw_scores": True})
    assert raw.status_code == 200, raw.text
    scores = by_place(raw.json())
    assert off(scores, logits(QUERY, texts)) < 0.7, "the floor of int8 is a likeness of 0.8: 0.63 of the spread"
    assert np.corrcoef(scores, logits(QUERY, texts))[0, 1] > 0.98
    assert all(set(each) == {"index", "score"} for each in raw.json())
    assert raw.headers["x-embedship-reranker"] == info(ranks.service).reranker.fingerprint
    assert (raw.headers["x-embedship-truncated"], raw.headers["x-embedship-cut"].split("=")[0]) == ("1", "21")
    plain = ranks.post("/rerank", {"query": QUERY, "texts": texts, "return_text": True})
    np.testing.assert_allclose(by_place(plain.json()), sigmoid(scores), atol=1e-5)
    assert [each["text"] for each in plain.json()] == [texts[each["index"]] for each in plain.json()]
    assert [each["index"] for each in plain.json()] == [each["index"] for each in raw.json()]


def test_company_changes_no_score(ranks: Asked, texts: list[str]) -> None:
    """Eight requests at once, against one text at a time; a bundle whose int8 depends on its batch is not served."""

    async def together() -> list[list[dict[str, Any]]]:
        transport = httpx.ASGITransport(app=ranks.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            bodies = [{"query": f"{QUERY} {n}", "texts": texts[n:], "raw_scores": True} for n in range(8)]
            replies = await asyncio.gather(*(client.post("/rerank", json=body) for body in bodies))
        return [reply.json() for reply in replies]

    for n, answer in enumerate(asyncio.run(together())):
        alone = [
            ranks.post("/rerank", {"query": f"{QUERY} {n}", "texts": [text], "raw_scores": True}).json()[0]["score"]
            for text in texts[n:]
        ]
        np.testing.assert_allclose(by_place(answer), alone, atol=5e-2)


def test_infinity(ranks: Asked, texts: list[str]) -> None:
    tei = ranks.ask("POST", "/rerank", json={"query": QUERY, "texts": texts}, headers=SAME).json()
    body = {"query": QUERY, "documents": texts, "top_n": 3, "return_documents": True, "model": "m"}
    reply = ranks.ask("POST", "/rerank", json=body, headers=SAME)
    found = reply.json()
    assert (found["object"], found["model"]) == ("rerank", "tiny-cross-encoder")
    assert [each["index"] for each in found["results"]] == [each["index"] for each in tei[:3]]
    assert [each["document"] for each in found["results"]] == [texts[each["index"]] for each in tei[:3]]
    np.testing.assert_allclose([each["relevance_score"] for each in found["results"]], [e["score"] for e in tei[:3]])
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 20 * len(texts)
    assert ranks.post("/rerank", {"query": QUERY, "documents": texts}).json()["results"][0]["document"] is None
    cards = ranks.ask("GET", "/models").json()["data"]
    assert [(card["id"], card["capabilities"]) for card in cards][1] == ("tiny-cross-encoder", ["rerank"])


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_vllm(ranks: Asked, texts: list[str], logits: Callable[..., np.ndarray], path: str) -> None:
    body = {"text_1": QUERY, "text_2": texts, "model": "m", "truncate_prompt_tokens": -1}
    raw = ranks.post(path, {**body, "use_activation": False}).json()
    assert [each["index"] for each in raw["data"]] == list(range(len(texts)))
    scores = np.array([each["score"] for each in raw["data"]])
    assert np.corrcoef(scores, logits(QUERY, texts))[0, 1] > 0.98
    plain = ranks.post(path, body).json()
    np.testing.assert_allclose([each["score"] for each in plain["data"]], sigmoid(scores), atol=1e-5)
    assert (plain["object"], plain["model"]) == ("list", "tiny-cross-encoder")
    paired = ranks.post(path, {"text_1": [QUERY, "zip two lists"], "text_2": texts[:2], "activation": False}).json()
    first, second = (each["score"] for each in paired["data"])
    assert first == pytest.approx(scores[0], abs=5e-2)
    assert abs(second - logits("zip two lists", texts[1:2])[0]) < 0.7 * logits(QUERY, texts).std()
    for wrong in ({"text_1": ["a", "b"], "text_2": ["c"]}, {"text_1": "a", "text_2": []}):
        refused = ranks.post(path, wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text_2")


@pytest.mark.parametrize("version", ["1", "2"])
def test_cohere(ranks: Asked, texts: list[str], version: str) -> None:
    tei = ranks.ask("POST", "/rerank", json={"query": QUERY, "texts": texts}, headers=SAME).json()
    documents: list[Any] = [*texts[:2], *({"text": text, "url": "x"} for text in texts[2:])]
    assert ranks.post(f"/v{version}/rerank", {"query": "a", "documents": ["b"], "topn": 1}).status_code == 400
    body = {"query": QUERY, "documents": documents, "top_n": 5, "return_documents": True, "model": "m", "priority": 7}
    reply = ranks.ask("POST", f"/v{version}/rerank", json=body, headers=SAME)
    found = reply.json()
    assert [each["index"] for each in found["results"]] == [each["index"] for each in tei[:5]]
    assert [each["document"]["text"] for each in found["results"]] == [texts[each["index"]] for each in tei[:5]]
    assert found["meta"]["api_version"] == {"version": version}
    assert "Document 21 and the query" in found["meta"]["warnings"][0]
    assert "document" not in ranks.post(f"/v{version}/rerank", {"query": "a", "documents": ["b"]}).json()["results"][0]
    wrong = ranks.post(f"/v{version}/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 5})
    assert (wrong.status_code, "max_tokens_per_doc" in wrong.json()["message"]) == (400, True)


WRONG = [
    ({"query": "a"}, 422, "either `texts` or `documents`"),
    ({"query": "a", "texts": ["b"], "documents": ["b"]}, 422, "either `texts` or `documents`"),
    ({"query": "a", "texts": []}, 422, "the list is empty"),
    ({"query": "a", "texts": ["b"], "top_n": 1}, 422, "top_n: this option cannot be combined with"),
    ({"query": "a", "documents": ["b"], "truncate": False}, 422, "truncate: this option cannot be combined with"),
    ({"query": "a", "texts": ["b"], "truncation_direction": "Left"}, 422, "only truncates on the right"),
    ({"query": "a", "texts": ["b"], "raw": True}, 422, "raw"),
    ({"query": "a", "texts": ["b"] * 65}, 413, "65 texts"),
    ({"query": "a" * 10_001, "texts": ["b"]}, 413, "10001 characters"),
    ({"query": "a", "texts": ["word " * 300], "truncate": False}, 413, "Pair 0 has"),
    ({"query": "a" * 9_999, "texts": ["b"] * 11}, 413, "11 pairs with this query have 110000 characters"),
]


@pytest.mark.parametrize(("body", "status", "says"), WRONG)
def test_wrong_requests_are_told_why(ranks: Asked, body: dict[str, Any], status: int, says: str) -> None:
    reply = ranks.post("/rerank", body)
    assert reply.status_code == status, reply.text
    assert says in reply.json()["error"]


def test_without_a_reranker_it_says_how_to_get_one(api: Asked) -> None:
    for path, body in (("/rerank", {"texts": ["b"]}), ("/v2/rerank", {"documents": ["b"]})):
        reply = api.post(path, {"query": "a", **body})
        assert (reply.status_code, "--reranker" in reply.text) == (409, True)
    assert info(api.service).reranker is None


def test_a_search_is_re_ranked(ranks: Asked, passages: list[dict[str, Any]]) -> None:
    plain = ranks.post("/search", {"query": QUERY, "k": 20}).json()["results"][0]["hits"]
    reply = ranks.post("/search", {"query": [QUERY, "zip"], "k": 5, "rerank": {"top": 20}})
    assert reply.status_code == 200, reply.text
    hits = reply.json()["results"][0]["hits"]
    scored = ranks.post("/rerank", {"query": QUERY, "texts": [each["text"] for each in plain]}).json()
    assert [each["id"] for each in hits] == [plain[each["index"]]["id"] for each in scored[:5]]
    np.testing.assert_allclose([each["score"] for each in hits], [each["score"] for each in scored[:5]], atol=1e-2)
    assert [each["retrieved"]["rank"] for each in hits] == [each["index"] + 1 for each in scored[:5]]
    for each in hits:
        # Last bits of the query's vector may depend on what it was computed with.
        assert each["retrieved"]["score"] == pytest.approx(plain[each["retrieved"]["rank"] - 1]["score"], rel=1e-5)
    assert "retrieved" not in plain[0]
    alone = ranks.post("/search", {"query": [QUERY, "zip"], "k": 5})
    assert reply.json()["usage"]["total_tokens"] > 20 * alone.json()["usage"]["total_tokens"]
    assert reply.headers["x-embedship-reranker"]
    assert "x-embedship-reranker" not in alone.headers


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_every_mode_can_be_re_ranked(ranks: Asked, mode: str) -> None:
    hits = ranks.post("/search", {"query": "copy file", "mode": mode, "k": 3, "rerank": {"top": 9}}).json()
    scores = [each["score"] for each in hits["results"][0]["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    nothing = ranks.post("/search", {"query": "qqqqzzzz", "mode": "keyword", "rerank": {}})
    assert nothing.json()["results"] == [{"hits": []}]


def test_feedback_judges_what_was_answered(ranks: Asked) -> None:
    """The best ten of thirty are others than the ten nearest: who labels one of them has found it."""
    nearest = {each["id"] for each in ranks.post("/search", {"query": QUERY, "k": 10}).json()["results"][0]["hits"]}
    reply = ranks.post("/search", {"query": QUERY, "k": 10, "rerank": {"top": 30}})
    answered = {each["id"] for each in reply.json()["results"][0]["hits"]}
    (promoted, *_), (dropped, *_) = sorted(answered - nearest), sorted(nearest - answered)
    body = {"relevant": [promoted, dropped], "request_id": reply.headers["x-request-id"]}
    assert ranks.post("/feedback", body).json() == {"found": 1, "expected": 2, "recall": 0.5}


@pytest.mark.parametrize(("change", "status", "says"), [
    ({"k": 10, "rerank": {"top": 5}}, 422, "rerank.top: 10 hits"),
    ({"rerank": {"top": 1001}}, 422, "the maximum is 1000"),
    ({"rerank": {"top": 0}}, 422, "top"), ({"rerank": {"best": 5}}, 422, "best"),
    ({"query": ["a"] * 3, "rerank": {"top": 30}}, 413, "90 pairs"),
])  # fmt: skip
def test_what_a_search_cannot_re_rank(ranks: Asked, change: dict[str, Any], status: int, says: str) -> None:
    reply = ranks.post("/search", {"query": "a", **change})
    assert (reply.status_code, says in reply.json()["error"]) == (status, True), reply.text


def test_pairs_are_counted_apart(ranking: Settings) -> None:
    with opened(ranking) as asked:
        asked.post("/search", {"query": "a file", "k": 2, "rerank": {"top": 7}})
        assert asked.metric("embedship_texts_total") == 1
        assert asked.metric("embedship_rerank_pairs_total") == 7
        assert asked.metric("embedship_rerank_tokens_total") > 7 * 10
        counted = {
            route: asked.metric("embedship_request_seconds_count", route=route) for route in ("/search", RERANKED)
        }
        assert counted == {"/search": 0, RERANKED: 1}
        assert asked.metric("embedship_permits_in_use") == 0
        names = [f"rerank-cpu:{n}" for n in range(asked.service.reranker.model.pool.streams)]
        assert sum(asked.metric("embedship_device_batches_total", device=name) for name in names) > 0
        assert [each.name for each in info(asked.service).devices][-len(names) :] == names
        reranker = asked.service.reranker.bundle.fingerprint
        assert f'reranker="{reranker}"' in asked.ask("GET", "/metrics").text


def test_its_canaries_sing(ranking: Settings) -> None:
    with opened(ranking) as asked:
        asyncio.run(asked.service.background.run_canaries())
        report = asked.service.monitor.report().canary
        assert report.state is SignalState.OK, report.reason
        devices = {each.device: each for each in report.devices}
        assert {"cpu:0", "rerank-cpu:0"} <= set(devices)
        (fleet,) = (model.pool for model in asked.service.models if model.bundle.task == "rerank")
        engine, encode = fleet.devices[0]._engine, fleet.devices[0]._engine.encode
        engine.encode = lambda batch: 1.5 * encode(batch)  # scores of another scale, and nothing is said
        asyncio.run(asked.service.background.run_canaries())
        report = asked.service.monitor.report().canary
        assert (report.state, report.reason.split(":")[0]) == (SignalState.WARN, "rerank-cpu"), report.reason


def test_a_bundle_of_the_other_task_is_refused(ranking: Settings, bundle: Path, rerank_bundle: Path) -> None:
    with pytest.raises(UsageError, match="embeds texts"):
        ServerState.open(replace(ranking, reranker=bundle))
    with pytest.raises(UsageError, match="--reranker"):
        ServerState.open(replace(ranking, bundle=rerank_bundle))


def test_a_reload_takes_the_reranker_along(ranking: Settings) -> None:
    with opened(ranking) as asked:
        before = asked.service

        async def reload() -> None:
            await asked.app.reload()

        reply = asked.post("/rerank", {"query": "a", "texts": ["b"]})
        asyncio.run(reload())
        assert asked.service is not before
        assert asked.post("/rerank", {"query": "a", "texts": ["b"]}).json() == reply.json()


def test_worker_processes_score_too(bundle: Path, rerank_bundle: Path, ranks: Asked, texts: list[str]) -> None:
    expected = ranks.post("/rerank", {"query": QUERY, "texts": texts, "raw_scores": True}).json()
    with launched(str(bundle), "--devices", "cpu:0", "--reranker", str(rerank_bundle), "--streams", "1") as live:
        body = {"query": QUERY, "texts": texts, "raw_scores": True}
        found = httpx.post(f"{live.url}/rerank", json=body, timeout=60).json()
        devices = [each["name"] for each in httpx.get(f"{live.url}/info", timeout=60).json()["devices"]]
    np.testing.assert_allclose(by_place(found), by_place(expected), atol=5e-2)
    assert devices == ["cpu:0", "rerank-cpu:0"]


def test_the_page_s_examples(bundle: Path, rerank_bundle: Path, index_folder: Path) -> None:
    arguments = (str(bundle), "--reranker", str(rerank_bundle), "--index", str(index_folder))
    with launched(*arguments) as live:
        for example in examples("rerank.md"):
            check(live.url, example)
