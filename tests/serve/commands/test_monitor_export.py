"""From a service that was used, over its state folder, to lines that sentence-transformers trains on."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.monitor import snapshot
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.snapshot import MonitorState
from embedship.serve.settings import Settings
from embedship.stdlib_docs import entries

from ..conftest import opened

ODD = [f"recipe number {n}: braise the leeks in butter with {n} cloves of garlic" for n in range(8)]


class Used(NamedTuple):
    state: Path
    query: str
    right: str  # id of the document that a user said was right
    plain: list[str]


@pytest.fixture(scope="module")
def used(
    bundle: Path, index_folder: Path, passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Used:
    """A service that answered questions like its documents and some about cooking, and was told one right answer."""
    state = tmp_path_factory.mktemp("state")
    plain = [row["title"] for row in passages[:40]]
    settings = Settings(bundle=bundle, index=index_folder, state_dir=state, keep_queries=50)
    with opened(settings) as asked:
        for query in [*plain, *ODD]:
            assert asked.post("/search", {"query": query}).status_code == 200
        query = plain[0]
        answer = asked.post("/search", {"query": query})
        right = answer.json()["results"][0]["hits"][3]["id"]
        judged = {"request_id": answer.headers["x-request-id"], "relevant": [right]}
        assert asked.post("/feedback", judged).status_code == 200
    return Used(state, query, right, plain)


@pytest.fixture(scope="module")
def reference(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    with Encoder.open(bundle) as encoder:
        vectors = encoder.encode([entry.summary for entry in entries(300)])
    DriftReference.fit(vectors, Bundle.open(bundle).fingerprint).save(path)
    return path


@pytest.fixture
def exported(bundle: Path, index_folder: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the verb; files go to out.jsonl and beside it."""
    common = ["--bundle", str(bundle), "--index", str(index_folder), "--out", str(tmp_path / "out.jsonl")]
    return lambda *arguments: run(["monitor", "export", *common, *map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_judged_query_becomes_triplets(
    exported: Callable[..., int], used: Used, passages: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert exported("--state-dir", used.state, "--negatives", 3) == 0
    rows = lines(tmp_path / "out.jsonl")
    text = {row["id"]: row["text"] for row in passages}
    # A loss takes every column for a text to be trained on.
    assert [list(row) for row in rows] == [["anchor", "positive", "negative"]] * 3, (
        "any other column would be trained on"
    )
    assert {row["anchor"] for row in rows} == {used.query}
    assert {row["positive"] for row in rows} == {text[used.right]}
    negatives = [row["negative"] for row in rows]
    assert len(set(negatives)) == 3
    assert text[used.right] not in negatives
    assert set(negatives) <= set(text.values())


def test_negatives_are_nearer_than_most(
    exported: Callable[..., int], used: Used, passages: list[dict[str, Any]], bundle: Path, tmp_path: Path
) -> None:
    assert exported("--state-dir", used.state, "--negatives", 2) == 0
    with Encoder.open(bundle) as encoder:
        similarity = encoder.encode([row["text"] for row in passages]) @ encoder.encode([used.query])[0]
    rank = {passages[i]["text"]: place for place, i in enumerate(np.argsort(-similarity))}
    assert max(rank[row["negative"]] for row in lines(tmp_path / "out.jsonl")) < 10


def test_only_probes_that_fail_are_taught(
    exported: Callable[..., int], passages: list[dict[str, Any]], bundle: Path, tmp_path: Path
) -> None:
    """The first finds its own text; the second asks for what lies furthest from it; the third is not in the index."""
    with Encoder.open(bundle) as encoder:
        similarity = encoder.encode([row["text"] for row in passages]) @ encoder.encode(ODD[:1])[0]
    furthest = passages[int(similarity.argmin())]
    asked = [(passages[0]["text"], passages[0]["id"]), (ODD[0], furthest["id"]), ("x", "none")]
    probes = tmp_path / "asked.jsonl"
    probes.write_text("".join(json.dumps({"text": text, "relevant": [id]}) + "\n" for text, id in asked))
    assert exported("--probes", probes, "--negatives", 1) == 0
    (row,) = lines(tmp_path / "out.jsonl")
    assert (row["anchor"], row["positive"]) == (ODD[0], furthest["text"])
    sources = json.loads((tmp_path / "out.about.json").read_text())["sources"]
    assert sources == {"feedback": 0, "probes": 3, "failed_probes": 1, "missing": 1, "alone": 0, "drifted": 0}


def test_queries_unlike_the_reference_are_to_be_labelled(
    exported: Callable[..., int], used: Used, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported("--state-dir", used.state, "--reference", reference, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    rows = lines(tmp_path / "out.unlabelled.jsonl")
    assert {row["query"] for row in rows} >= set(ODD)
    # Of a reference of 300 the edge of a topic is known roughly, and other variants round otherwise.
    assert len(rows) - len(ODD) <= len(used.plain) // 5
    assert [row["distance"] for row in rows] == sorted((row["distance"] for row in rows), reverse=True)
    assert len(rows[0]["candidates"]) == 5
    assert report["unlabelled"] == report["sources"]["drifted"] == len(rows)
    assert report == json.loads((tmp_path / "out.about.json").read_text())


def test_what_users_wrote_is_for_the_owner_only(exported: Callable[..., int], used: Used, tmp_path: Path) -> None:
    assert exported("--state-dir", used.state) == 0
    for name in ("out.jsonl", "out.unlabelled.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_next_training_takes_it(exported: Callable[..., int], used: Used, minilm: Path, tmp_path: Path) -> None:
    """A step with the loss that takes triplets: afterwards the right answer lies nearer than before."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    assert exported("--state-dir", used.state, "--negatives", 1) == 0
    rows = lines(tmp_path / "out.jsonl")
    model = SentenceTransformer(str(minilm), device="cpu")
    model.max_seq_length = 16
    features = [model.preprocess([row[column] for row in rows]) for column in ("anchor", "positive", "negative")]
    loss, optimizer = MultipleNegativesRankingLoss(model), torch.optim.AdamW(model.parameters(), lr=2e-5)
    losses = []
    for _ in range(2):
        losses.append(loss(features, torch.empty(0)))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_nothing_is_written_over(
    exported: Callable[..., int], used: Used, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.about.json").write_text("mine")
    assert exported("--state-dir", used.state) == 2
    assert "exists: give --force" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.about.json"]
    assert exported("--state-dir", used.state, "--force") == 0
    assert json.loads((tmp_path / "out.about.json").read_text())["sources"]["feedback"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "give --state-dir DIR of the server, --probes FILE"),
        (["--state-dir", "{empty}"], 2, "contains no monitor.safetensors"),
        (
            ["--state-dir", "{silent}"],
            2,
            "The server kept no query texts (`embedship serve --keep-queries N`",
        ),
        (["--state-dir", "{foreign}"], 4, "belongs to model 000000000000"),
        (["--state-dir", "{silent}", "--reference", "{empty}/none"], 2, "is not a drift reference"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    exported: Callable[..., int],
    bundle: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[str],
    code: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("empty", "silent", "foreign")}
    snapshot.write(folders["silent"], MonitorState(fingerprint=Bundle.open(bundle).fingerprint, created=0.0), None)
    snapshot.write(folders["foreign"], MonitorState(fingerprint="0" * 64, created=0.0), None)
    assert exported(*(argument.format(**folders) for argument in arguments)) == code
    assert reason in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
