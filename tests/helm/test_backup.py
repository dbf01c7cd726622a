"""The backup CronJob's command on a real index, and what `embedship restore` makes of its copy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.serve.index.folder import IndexFolder
from embedship.serve.indexing.build import IndexOptions, build

from .conftest import ROOT
from .manifests import one, render

CLAIMS = ["index", "state-search-embedship-0"]


def test_a_copy_comes_back_as_an_index(helm: Path, bundle: Path, tmp_path: Path) -> None:
    claims = {name: tmp_path / "claims" / name for name in (*CLAIMS, "copies")}
    for folder in claims.values():
        folder.mkdir(parents=True)
    (claims[CLAIMS[1]] / "monitor.json").write_text("{}")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(f'{{"id": "{n}", "text": "number {n}"}}' for n in range(20)))
    with Encoder.open(bundle, "openvino") as encoder:
        build(encoder, "openvino", corpus, claims["index"] / "v1", IndexOptions(), lambda *_: None)

    pod = one(render(helm, {"backup": {"enabled": True, "claims": CLAIMS, "claimName": "copies"}}), "CronJob")
    spec = pod["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    volumes = {
        v["name"]: claims[v["persistentVolumeClaim"]["claimName"]]
        for v in spec["volumes"]
        if "persistentVolumeClaim" in v
    }
    mounted = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"] if m["name"] in volumes}
    assert all(m.get("readOnly") for m in container["volumeMounts"] if m["name"].startswith("from-"))
    run(*container["command"], *(str(mounted.get(each, each)) for each in container["args"]))

    (copy,) = claims["copies"].iterdir()
    page = (ROOT / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"^    (embedship restore .*)$", page, re.MULTILINE)
    here = {"/index/restored": claims["index"] / "restored"}
    words = [str(copy) if word.startswith("/backup/") else str(here.get(word, word)) for word in command.split()]
    run(*words)
    with IndexFolder.open(claims["index"] / "restored" / "v1", Bundle.open(bundle)) as index:
        assert index.index.size == 20


def test_the_pod_that_copies_reaches_nobody_and_nobody_it(helm: Path) -> None:
    made = render(helm, {"backup": {"enabled": True, "claims": CLAIMS, "claimName": "copies"}})
    labels = one(made, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    policies = [each["spec"] for each in made if each["kind"] == "NetworkPolicy"]
    (policy,) = [each for each in policies if selects(each["podSelector"], labels)]
    assert (policy["policyTypes"], policy["ingress"], policy["egress"]) == (["Ingress", "Egress"], [], [])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    among = all(labels[each["key"]] in each["values"] for each in selector.get("matchExpressions", []))
    return among and selector["matchLabels"].items() <= labels.items()


def run(*command: str) -> None:
    program = str(Path(sys.executable).parent / command[0])
    answer = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
