"""The RayJob: its command on a real corpus, and the network policy of its pods."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .manifests import Refused, one, ray_templates, render

BULK: dict[str, Any] = {"enabled": True, "image": "embedship-ray:1", "claimName": "corpus", "source": "deep/in.jsonl"}


def test_its_command_encodes_a_corpus(helm: Path, bundle: Path, tmp_path: Path) -> None:
    """Run the head node's command on a local Ray cluster."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    claim = tmp_path / "claim"
    (claim / "deep").mkdir(parents=True)
    (claim / "deep" / "in.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(20)))
    job = one(render(helm, {"bulkRay": {**BULK, "format": "npy", "code": "int8", "shardTexts": 8}}), "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    local_arguments = {"/bundle": str(bundle), "auto": "local"}
    command = [local_arguments.get(word, word).replace("/data/", f"{claim}/") for word in words]
    answer = subprocess.run(
        [str(Path(sys.executable).parent / program), *command],
        capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert (report["texts"], report["code"], report["shards"]) == (20, "int8", 3)
    assert (claim / "vectors" / "encode.json").exists()


def test_the_head_alone_holds_the_claim_and_the_credentials_and_encodes_nothing(helm: Path) -> None:
    values = {"bulkRay": {**BULK, "secret": "keys", "env": {"AWS_REGION": "eu-1"}, "workers": {"replicas": 7}}}
    job = one(render(helm, values), "RayJob")
    head, worker = ({v["name"] for v in each["spec"]["volumes"]} for each in ray_templates(job))
    assert head - worker == {"data"}
    ours, theirs = (each["spec"]["containers"][0] for each in ray_templates(job))
    assert ours["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "envFrom" not in theirs
    assert {each["name"] for each in ours["env"]} - {each["name"] for each in theirs["env"]} == {"AWS_REGION"}
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {7}


def test_its_pods_reach_each_other_and_the_operator_the_head(helm: Path) -> None:
    made = render(helm, {"bulkRay": BULK})
    policies = [each["spec"] for each in made if each["kind"] == "NetworkPolicy"]
    labels = ray_templates(one(made, "RayJob"))[0]["metadata"]["labels"]
    (policy,) = [each for each in policies if each["podSelector"].get("matchLabels", {}).items() <= labels.items()
                 and "matchExpressions" not in each["podSelector"]]  # fmt: skip
    own = {"podSelector": policy["podSelector"]}
    assert policy["ingress"][0] == {"from": [own]}
    assert policy["ingress"][1]["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert policy["egress"][0] == {"to": [own]}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bulkRay": {**BULK, "image": ""}}, "bulkRay.image is empty"),
        ({"bulkRay": {**BULK, "source": ""}}, "bulkRay.source is empty"),
        ({"bulkRay": {**BULK, "source": "a b"}}, "source"),
        ({"bulkRay": {**BULK, "out": "../x"}}, "out"),
    ],
)
def test_what_cannot_be_is_refused(helm: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        render(helm, values)
