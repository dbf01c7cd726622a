"""docs/kubernetes.md, executed as far as it is possible without a container engine and a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from .conftest import ROOT
from .local_pods import Pod
from .manifests import one
from .test_release import cluster, commands, done

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
SECONDS = 600  # a limit for a hang, not for a busy machine


def test_every_helm_command_works(each_helm: Path, tmp_path: Path) -> None:
    seen = []
    with cluster(each_helm, tmp_path) as (api, helm):
        for command in commands(PAGE):
            done(helm(*command))
            seen.append(command[0])
            if command[0] == "upgrade":
                assert api.objects_of_kind("Deployment")["search-embedship"]["spec"]["replicas"] == 2
    assert seen == ["lint", "template", "install", "test", "upgrade", "uninstall"]


def test_hadolint_accepts_the_dockerfile(tool: Callable[[str], Path], tmp_path: Path) -> None:
    (text,) = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "Dockerfile").write_text(text)
    answer = subprocess.run([tool("hadolint"), tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
    (built,) = re.findall(r"--file model.Dockerfile --tag (\S+) ", PAGE)
    install = next(each for each in commands(PAGE) if each[0] == "install")
    assert {f"image.repository={built.split(':')[0]}", f"image.tag={built.split(':')[1]}"} <= set(install)
    assert f"bundle.path={text.split()[-1]}" in install


def test_the_rendered_command_answers_the_request(helm: Path, bundle: Path, tmp_path: Path) -> None:
    (template,) = (each for each in commands(PAGE) if each[0] == "template")
    rendered = subprocess.run([helm, *template], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    objects: list[dict[str, Any]] = list(filter(None, yaml.safe_load_all(rendered)))
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    folders = {f"/{name}": tmp_path / name for name in ("state", "cache", "tmp", "keys")}
    for folder in folders.values():
        folder.mkdir()
    (folders["/keys"] / "api-keys").write_text("a-key-of-this-test\n")
    ((header, body, path),) = re.findall(
        r"curl --fail --header \"(.+?)\" --data '(.+?)' http://127.0.0.1:8080(\S+)", PAGE
    )
    name, _, value = header.replace("$KEY", "a-key-of-this-test").partition(": ")

    async def ask() -> list[httpx.Response]:
        pod = Pod(spec, {"/model": bundle, **folders})
        try:
            await pod.start()
            async with httpx.AsyncClient(base_url=pod.url, timeout=30) as client:
                return [await client.post(path, content=body, headers={name: each}) for each in (value, "Bearer wrong")]
        finally:
            await pod.kill()

    right, wrong = asyncio.run(asyncio.wait_for(ask(), SECONDS))
    assert right.status_code == 200, right.text
    assert len(json.loads(right.text)[0]) > 100
    assert wrong.status_code == 401
