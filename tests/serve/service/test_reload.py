"""Another bundle under a running server: no request lost, none answered by two, and nothing bad ever taken."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from embedship import bundle as bundles
from embedship.bundle import GOLDEN, Bundle
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.golden_texts import ALONE_FLOOR, GoldenTexts
from embedship.serve.errors import Invalid
from embedship.serve.http.app import App
from embedship.serve.http.messages import RequestInfo, Route
from embedship.serve.http.routes import routes
from embedship.serve.http.routes.admin import AdminRoutes
from embedship.serve.schemas import ReloadRequest
from embedship.serve.service.reload import Reloader
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

from ..conftest import Asked, launched

SECONDS = 60
ADMIN = "an-admin-key-of-the-tests"
HEADERS = {"authorization": f"Bearer {ADMIN}"}
TEXT = "how do I open a file"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "admin-keys"
    path.write_text(ADMIN)
    return path


@pytest.fixture
def other(altered: Path) -> Path:
    """A bundle of another fingerprint, which gives other vectors: its texts get a prompt."""
    manifest = Bundle.open(altered).manifest
    pipeline = msgspec.structs.replace(manifest.pipeline, prompts={"shout": "HELP ME: "}, default_prompt="shout")
    found = bundles.fingerprint(manifest.source, pipeline, manifest.tokenizer_sha256)
    Bundle.write(altered, msgspec.structs.replace(manifest, pipeline=pipeline, fingerprint=found))
    return altered


def vector_of(bundle: Path) -> tuple[str, Vectors]:
    with Encoder.open(bundle) as encoder:
        return encoder.bundle.fingerprint, encoder.encode([TEXT])[0]


def point(link: Path, target: Path) -> None:
    """Let a link show elsewhere, at once."""
    new = link.with_name("new-link")
    new.symlink_to(target)
    os.replace(new, link)


class Load:
    """Clients that ask until told to stop, and compare every answer with what its fingerprint promises."""

    def __init__(self, url: str, right: dict[str, Vectors]) -> None:
        self._url = url
        self._right = right
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = False

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=SECONDS) as client:
            while not self.over:
                answer = await client.post("/embed", json={"inputs": [TEXT, "another text"]})
                self._judge(answer)

    def _judge(self, answer: httpx.Response) -> None:
        name = answer.headers["x-embedship-fingerprint"]
        self.seen[name] += 1
        if answer.status_code != 200:
            self.wrong.append(answer.text)
        elif float(np.dot(answer.json()[0], self._right[name])) < ALONE_FLOOR:
            self.wrong.append(f"a vector that is not of {name}")

    async def until(self, fingerprint: str, more: int = 50) -> None:
        """Until so many more answers of this one have come."""
        enough = self.seen[fingerprint] + more
        while self.seen[fingerprint] < enough:  # noqa: ASYNC110 - a Counter tells nobody
            await asyncio.sleep(0.001)


def test_reloads_under_load_lose_no_request_and_mix_none(bundle: Path, other: Path, keys: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle)
    right = dict([vector_of(bundle), vector_of(other)])
    first, second = right
    assert np.dot(right[first], right[second]) < 0.99, "the bundles must differ for this test to be able to fail"

    async def go(url: str, hang_up: Callable[[], None]) -> Load:
        load = Load(url, right)
        clients = [asyncio.create_task(load.run()) for _ in range(4)]
        await load.until(first)
        point(link, other)
        hang_up()
        await load.until(second)
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS, headers=HEADERS) as admin:
            answer = await admin.post("/admin/reload", json={"bundle": str(bundle)})
        assert answer.json()["fingerprint"] == first
        assert answer.json()["before"] == second
        await load.until(first)
        load.over = True
        await asyncio.gather(*clients)
        return load

    with launched(str(link), "--admin-key-file", str(keys), "--drain-seconds", "1") as live:
        load = asyncio.run(asyncio.wait_for(go(live.url, lambda: live.process.send_signal(signal.SIGHUP)), SECONDS))
        metrics = httpx.get(f"{live.url}/metrics", timeout=SECONDS).text
        live.process.terminate()
        assert live.end() == 0
    assert load.wrong == []
    assert 'embedship_reloads_total{result="taken"} 2.0' in metrics
    shown = [line for line in metrics.splitlines() if line.startswith("embedship_info{")]
    assert len(shown) == 1
    assert first in shown[0]


@contextmanager
def housed(settings: Settings) -> Iterator[Asked]:
    with ServerState.open(settings) as state:
        yield Asked(state)


def within(work: Callable[[httpx.AsyncClient], Awaitable[None]], asked: Asked) -> None:
    """Run it in one event loop, as a server does, and let what is being closed be closed."""

    async def go() -> None:
        ours = asyncio.all_tasks()
        transport = httpx.ASGITransport(app=asked.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await work(client)
        while others := asyncio.all_tasks() - ours:
            await asyncio.wait(others)

    asyncio.run(asyncio.wait_for(go(), SECONDS))


def broken_golden(folder: Path) -> None:
    opened = Bundle.open(folder)
    right = GoldenTexts.load(opened)
    GoldenTexts(right.texts, right.ids, np.roll(right.vectors, 1, axis=0)).save(folder / GOLDEN)
    Bundle.write(folder, opened.manifest)


def no_bundle(folder: Path) -> None:
    (folder / "bundle.json").unlink()


def torn(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "says"), [(broken_golden, "golden check failed"), (no_bundle, "bundle.json"), (torn, "tokenizer.json")]
)
def test_a_reload_that_fails_leaves_the_old_one_and_says_why(
    settings: Settings, altered: Path, keys: Path, damage: Callable[[Path], None], says: str, caplog: Any
) -> None:
    damage(altered)
    with housed(replace(settings, admin_key_file=keys)) as asked:
        before = asked.service

        async def go(client: httpx.AsyncClient) -> None:
            answer = await client.post("/admin/reload", json={"bundle": str(altered)}, headers=HEADERS)
            assert answer.status_code == 409
            assert says in answer.json()["error"]
            again = await client.post("/embed", json={"inputs": TEXT})
            assert (again.status_code, again.headers["x-embedship-fingerprint"]) == (200, before.bundle.fingerprint)

        within(go, asked)
        assert asked.service is before
        assert asked.metric("embedship_reloads_total", result="failed") == 1
        assert says in caplog.text


def test_an_index_of_another_model_is_refused(settings: Settings, index_folder: Path, other: Path, keys: Path) -> None:
    with housed(replace(settings, admin_key_file=keys, index=index_folder)) as asked:

        async def go(client: httpx.AsyncClient) -> None:
            answer = await client.post("/admin/reload", json={"bundle": str(other)}, headers=HEADERS)
            assert answer.status_code == 409
            assert "their vectors cannot be compared" in answer.json()["error"]
            assert (await client.post("/search", json={"query": TEXT})).status_code == 200

        within(go, asked)


def test_an_index_is_taken_up_and_what_was_open_is_closed(settings: Settings, index_folder: Path, keys: Path) -> None:
    with housed(replace(settings, admin_key_file=keys)) as asked:
        before = asked.service

        async def go(client: httpx.AsyncClient) -> None:
            assert (await client.post("/search", json={"query": TEXT})).status_code == 409
            answer = await client.post("/admin/reload", json={"index": str(index_folder)}, headers=HEADERS)
            assert answer.status_code == 200, answer.text
            assert (await client.post("/search", json={"query": TEXT})).status_code == 200

        within(go, asked)
        assert asked.service is not before
        assert not before.workers.alive


def test_routes_of_the_new_service_are_made_before_it_answers(settings: Settings, keys: Path) -> None:
    """And not on the event loop, inside the first request to it."""
    made: list[tuple[ModelService, ModelService, bool]] = []

    def offered(state: ServerState, service: ModelService, reload: Reloader) -> tuple[Route, ...]:
        made.append((service, state.service, threading.current_thread() is threading.main_thread()))
        return routes(state, service, reload)

    with housed(replace(settings, admin_key_file=keys)) as asked:
        before, app = asked.service, App(asked.state, make_routes=offered)

        async def go(_: httpx.AsyncClient) -> None:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for _ in range(2):  # the first is answered by none, the second swap must not be mixed up with it
                    await asked.app.reload()
                assert (await client.post("/embed", json={"inputs": TEXT})).status_code == 200

        within(go, asked)
        now = asked.service
        assert [service for service, _, _ in made][::2] == [before, now]
        assert made[0] == (before, before, True)
        assert made[1][1:] == (before, False)
        assert made[2][1:] == (made[1][0], False)
        assert len(made) == 3, "a request makes none"


def test_one_reload_at_a_time(settings: Settings, keys: Path) -> None:
    with housed(replace(settings, admin_key_file=keys)) as asked:

        async def go(client: httpx.AsyncClient) -> None:
            both = [client.post("/admin/reload", json={}, headers=HEADERS) for _ in range(2)]
            answers = await asyncio.gather(*both)
            assert sorted(answer.status_code for answer in answers) == [200, 409]

        within(go, asked)
        assert asked.metric("embedship_reloads_total", result="refused") == 1
        assert asked.metric("embedship_reloads_total", result="taken") == 1


def test_the_old_one_is_closed_only_when_its_last_request_is_answered(settings: Settings, keys: Path) -> None:
    with housed(replace(settings, admin_key_file=keys)) as asked:
        before = asked.service

        async def go(client: httpx.AsyncClient) -> None:
            before.request_started()
            assert (await client.post("/admin/reload", json={}, headers=HEADERS)).status_code == 200
            for _ in range(100):
                await asyncio.sleep(0)
            encoded = await before.pipeline.embed([TEXT], None)  # it still answers whoever is inside
            assert len(encoded.vectors) == 1
            before.request_finished()

        within(go, asked)
        assert not before.workers.alive


def test_the_monitor_goes_on_over_a_reload(settings: Settings, keys: Path, index_folder: Path, tmp_path: Path) -> None:
    watched = replace(settings, admin_key_file=keys, index=index_folder, state_dir=tmp_path / "state")
    with housed(watched) as asked:

        async def go(client: httpx.AsyncClient) -> None:
            assert (await client.post("/search", json={"query": ["one", "two"]})).status_code == 200
            assert asked.service.monitor.observer.flush(SECONDS)
            assert (await client.post("/admin/reload", json={}, headers=HEADERS)).status_code == 200

        within(go, asked)
        assert asked.metric("embedship_snapshot_restored") == 1
        assert asked.metric("embedship_drift_window_queries") == 2


def parts_of(service: ModelService) -> list[weakref.ref[object]]:
    return [
        weakref.ref(part)
        for part in (service.inference, service.workers, service.encoder, service.monitor, service.pipeline,
                     service.background, service.collection)
    ]  # fmt: skip


def mapped(folder: Path) -> int:
    """How many pieces of the bundle's files are mapped into this process."""
    return Path("/proc/self/maps").read_text().count(f"{folder.resolve()}/")


def test_a_reload_leaves_nothing_of_the_old_service_in_memory(
    settings: Settings, keys: Path, index_folder: Path
) -> None:
    """The garbage collector may run only after many reloads, so the memory must not depend on it."""
    gc.collect()
    gc.disable()
    try:
        with housed(replace(settings, admin_key_file=keys, index=index_folder)) as asked:
            before, old = mapped(settings.bundle), []

            async def go(client: httpx.AsyncClient) -> None:
                running = asyncio.create_task(asked.state.run_background_tasks())
                assert (await client.post("/search", json={"query": TEXT})).status_code == 200
                old.extend(parts_of(asked.service))
                assert (await client.post("/admin/reload", json={}, headers=HEADERS)).status_code == 200
                assert (await client.post("/search", json={"query": TEXT})).status_code == 200
                running.cancel()
                await asyncio.wait([running])

            within(go, asked)
            assert [type(each()).__name__ for each in old if each() is not None] == []
            assert mapped(settings.bundle) == before
    finally:
        gc.enable()


@pytest.mark.parametrize("field", ["bundle", "index"])
def test_a_path_with_a_nul_character_is_refused_by_name(api: Asked, field: str) -> None:
    request = msgspec.convert({field: "/tmp/a\0b"}, ReloadRequest)
    with pytest.raises(Invalid, match=f"^{field}: the path contains a NUL character") as caught:
        asyncio.run(AdminRoutes(api.app.reload).reload(request, RequestInfo(())))
    assert caught.value.param == field


def test_without_an_admin_key_nobody_reloads(api: Any) -> None:
    answer = api.ask("POST", "/admin/reload", json={}, headers=HEADERS)
    assert answer.status_code == 403
    assert "--admin-key-file" in answer.json()["error"]


def test_an_api_key_is_no_admin_key(fresh: Callable[..., Any], keys: Path, tmp_path: Path) -> None:
    callers = tmp_path / "callers"
    callers.write_text("a-key-of-some-caller")
    api = fresh(admin_key_file=keys, api_key_file=callers)
    answer = api.ask("POST", "/admin/reload", json={}, headers={"authorization": "Bearer a-key-of-some-caller"})
    assert answer.status_code == 403, "it is a key of this server, and may not do this"
    assert answer.json()["error"] == "This key does not permit the request: POST /admin/reload requires an admin key."
    stranger = api.ask("POST", "/admin/reload", json={}, headers={"authorization": "Bearer a-key-of-nobody-here"})
    assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, "Bearer")
    assert "not one of this server's" in stranger.json()["error"]
    search = api.ask("POST", "/embed", json={"inputs": "a"}, headers=HEADERS)
    assert search.status_code == 401
    assert "This is a write key or an admin key, but POST /embed requires an API key" in search.json()["error"]
