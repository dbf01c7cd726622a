"""A rendered server with an admin key reloads only for requests with this key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from .local_pods import Pod
from .manifests import one, render

KEYS = {"api": "a" * 48, "admin": "b" * 48}


async def send_reloads(pod: Pod, keys: list[str | None]) -> list[httpx.Response]:
    try:
        await pod.start()
        async with httpx.AsyncClient(base_url=pod.url, timeout=60) as client:
            headers = [{"authorization": f"Bearer {key}"} if key else {} for key in keys]
            return [await client.post("/admin/reload", json={}, headers=each) for each in headers]
    finally:
        await pod.kill()


def test_an_admin_key_reloads(helm: Path, bundle: Path, tmp_path: Path) -> None:
    folders = {f"/{name}": tmp_path / name for name in ("state", "cache", "tmp", "keys", "admin")}
    for folder in folders.values():
        folder.mkdir()
    (folders["/keys"] / "api-keys").write_text(KEYS["api"])
    (folders["/admin"] / "admin-keys").write_text(KEYS["admin"])
    values: dict[str, Any] = {"auth": {"create": True, "admin": {"existingSecret": "mine"}}}
    objects = render(helm, {**values, "server": {"streams": 1, "variant": "openvino"}})
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    secret = next(volume["secret"] for volume in spec["volumes"] if volume["name"] == "admin")
    assert (secret["secretName"], secret["items"][0]["path"]) == ("mine", "admin-keys")
    answers = asyncio.run(send_reloads(Pod(spec, {"/bundle": bundle, **folders}), [KEYS["admin"], KEYS["api"], None]))
    assert [answer.status_code for answer in answers] == [200, 403, 401], [answer.text for answer in answers]
    assert answers[0].json()["before"] == answers[0].json()["fingerprint"]


def test_the_key_is_kept_and_rolls_pods(helm: Path) -> None:
    objects = render(helm, {"auth": {"admin": {"create": True}}})
    secret = one(objects, "Secret", "-admin")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    notes = one(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert "checksum/admin-keys" in notes
    mounted = next(pod for pod in objects if pod["kind"] == "Pod")["spec"]["volumes"]
    assert "admin" not in {volume["name"] for volume in mounted}, "the test's pod does not need it"
