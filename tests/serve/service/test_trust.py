"""With --key or --digests a server opens no bundle and no index that the operator did not name or sign."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from embedship.bundle import MANIFEST, SIGNATURE, Bundle
from embedship.bundle.signing import BundleSigner
from embedship.commands import main
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.files.sealed import sha256_of
from embedship.serve.errors import ReloadFailed
from embedship.serve.http.app import App
from embedship.serve.index import manifest, signing
from embedship.serve.live import changes_folder
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.address import Address
from embedship.serve.service import reload_trial
from embedship.serve.service.reload import Reloader
from embedship.serve.service.state import ServerState
from embedship.serve.service.trust import require_trusted
from embedship.serve.settings import Settings

from ... import tiny
from ...embedship.bundle.test_signing import pair

KEY = "an-admin-key-of-the-tests"
HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Private and public key."""
    return pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(bundle: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/ and index/, both signed."""
    folder = tmp_path_factory.mktemp("signed")
    opened = tiny.write_bundle(folder / "bundle", Bundle.open(bundle).manifest)
    tiny.write_index(folder / "index", opened)
    signer = BundleSigner.open(keys[0])
    signer.sign(opened)
    signing.sign(folder / "index", signer)
    return folder


@pytest.fixture
def signed(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "signed"))


@pytest.fixture
def settings(signed: Path, keys: tuple[Path, Path]) -> Settings:
    return Settings(bundle=signed / "bundle", index=signed / "index", key=keys[1], cache=signed / "cache", streams=1)


def reseal_bundle(folder: Path) -> None:
    """Change a file as its author could: every hash is right."""
    opened = Bundle.open(folder)
    (folder / "note").write_text("added")
    Bundle.write(folder, opened.manifest)


def reseal_index(folder: Path) -> None:
    manifest.write(folder, msgspec.structs.replace(manifest.read(folder), created="2020-01-01T00:00:00+00:00"))


def unsign(folder: Path) -> None:
    (folder / SIGNATURE).unlink()


def test_signed_folders_are_accepted(settings: Settings) -> None:
    require_trusted(settings)
    require_trusted(replace(settings, candidate_bundle=settings.bundle, candidate_index=settings.index))


@pytest.mark.parametrize("change", [unsign, reseal_bundle])
@pytest.mark.parametrize("role", ["bundle", "reranker", "candidate_bundle"])
def test_a_bundle_without_a_valid_signature_is_refused(
    settings: Settings, signed: Path, role: str, change: Callable[[Path], None]
) -> None:
    other = Path(shutil.copytree(signed / "bundle", signed / "other"))
    changed = replace(settings, candidate_index=settings.index, **{role: other})
    require_trusted(changed)
    change(other)
    with pytest.raises(UnsafeError, match=r"has no signature|is not a signature of these files"):
        require_trusted(changed)


@pytest.mark.parametrize("change", [unsign, reseal_index])
@pytest.mark.parametrize("role", ["index", "candidate_index"])
def test_an_index_without_a_valid_signature_is_refused(
    settings: Settings, signed: Path, role: str, change: Callable[[Path], None]
) -> None:
    other = Path(shutil.copytree(signed / "index", signed / "other"))
    changed = replace(settings, **{role: other})
    require_trusted(changed)
    change(other)
    with pytest.raises(UnsafeError, match=r"has no signature|is not a signature of these files"):
        require_trusted(changed)


def test_a_signature_by_another_key_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="is not a signature of these files"):
        require_trusted(replace(settings, key=pair(tmp_path)[1]))


def test_changes_beside_a_signed_index_are_refused(settings: Settings, signed: Path) -> None:
    MutableIndex.open(signed / "index", Bundle.open(signed / "bundle"), writable=True).close()
    assert changes_folder(signed / "index").is_dir()
    with pytest.raises(UnsafeError, match="has changes that no signature or digest covers"):
        require_trusted(settings)


def test_only_the_listed_digests_are_accepted(settings: Settings, signed: Path) -> None:
    names = (signed / "bundle" / MANIFEST, signed / "index" / manifest.MANIFEST)
    digests = [f"sha256:{sha256_of(name)}" for name in names]
    pinned = replace(settings, key=None, digests=", ".join(digests))
    require_trusted(pinned)
    for kept, name in zip(digests, reversed(names), strict=True):
        with pytest.raises(MismatchError, match=f"{name} has the digest"):
            require_trusted(replace(pinned, digests=kept))
    (signed / "index" / "stage.faiss").write_bytes(b"changed")
    with pytest.raises(UnsafeError, match="is not the index that was built"):
        require_trusted(pinned)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"digests": "sha256:abc"}, "sha256:abc is not a digest"),
        ({"digests": " , "}, "is empty"),
        ({"writable": True}, "exclude each other"),
        ({"writable": True, "key": None, "digests": f"sha256:{'0' * 64}"}, "--digests and --writable exclude"),
        ({"index": Address.parse("milvus://127.0.0.1:1/x")}, "an index in Milvus has no signature"),
    ],
)
def test_settings_that_could_not_be_checked(settings: Settings, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(settings, **changes)


def test_a_reload_to_a_folder_that_is_not_signed_parses_nothing_of_it(
    settings: Settings, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a child process either. A signed folder is taken, and an index in Milvus is refused."""
    (signed / "admin").write_text(KEY)
    hostile = Path(shutil.copytree(signed / "bundle", signed / "hostile"))
    reseal_bundle(hostile)
    good = Path(shutil.copytree(signed / "index", signed / "good"))
    tried: list[object] = []
    monkeypatch.setattr(reload_trial, "require_openable", tried.append)

    async def reload(app: App, **body: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            answer = await client.post("/admin/reload", json=body, headers=HEADERS)
            assert (await client.post("/embed", json={"inputs": "w1 w2"})).status_code == 200
            return answer

    with ServerState.open(replace(settings, admin_key_file=signed / "admin")) as state:
        app = App(state)
        refused = asyncio.run(reload(app, bundle=str(hostile)))
        assert refused.status_code == 409
        assert "is not a signature of these files" in refused.json()["error"]
        assert tried == []
        assert asyncio.run(reload(app, index=str(good))).status_code == 200
        assert len(tried) == 1


def test_a_reload_that_contradicts_the_settings_is_refused_and_the_next_one_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example an index in Milvus, which has no signature."""
    monkeypatch.setattr(reload_trial, "require_openable", lambda _: None)

    async def go(state: ServerState) -> None:
        reload = Reloader(state)
        with pytest.raises(ReloadFailed, match="an index in Milvus has no signature"):
            await reload(index=Address("http://127.0.0.1:1", "faq"))
        assert (await reload()).fingerprint == state.service.bundle.fingerprint

    with ServerState.open(settings) as state:
        asyncio.run(go(state))


def test_the_commands(signed: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    index = signed / "index"
    unsign(index)
    with pytest.raises(UnsafeError, match="has no signature"):
        ServerState.open(Settings(bundle=signed / "bundle", index=index, key=keys[1]))
    assert main.run(["index", "verify", str(index), "--key", str(keys[1])]) == 4
    assert main.run(["index", "sign", str(index), "--key", str(keys[0]), "--json"]) == 0
    capsys.readouterr()
    assert main.run(["index", "verify", str(index), "--key", str(keys[1]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["signature"] == "valid"
    assert report["digest"] == f"sha256:{sha256_of(index / manifest.MANIFEST)}"
    require_trusted(Settings(bundle=signed / "bundle", index=index, key=keys[1]))
    (index / "stage.faiss").write_bytes(b"changed")
    assert main.run(["index", "sign", str(index), "--key", str(keys[0])]) == 4
