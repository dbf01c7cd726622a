"""Pull from every kind of source: the result is the complete bundle, byte for byte, or nothing."""

from __future__ import annotations

import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship.bundle import MANIFEST, Bundle
from embedship.errors import UnsafeError
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.transfer.pull import check_size_and_names
from embedship.transfer.registry import digest_of
from embedship.transfer.web import PIECE

from . import servers
from .conftest import LARGE, Answer, Command, Place, Run
from .servers import SECONDS, embedship

Fetch = Callable[..., Answer]


def is_the_bundle(out: Path, small: Bundle) -> bool:
    """Return whether `out` is exactly the bundle, with no other files inside or next to it."""
    assert Bundle.open(out).verify() == len(small.manifest.files)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    return (out / MANIFEST).read_bytes() == small.path(MANIFEST).read_bytes()


def within(holds: Callable[[], bool]) -> bool:
    """Return whether the condition becomes true within the time limit: a process writes a moment after it receives."""
    end = time.monotonic() + SECONDS
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def digest(small: Bundle) -> str:
    return digest_of(small.path(MANIFEST).read_bytes())


def graph(small: Bundle) -> str:
    return small.manifest.variants[0].path


def total(small: Bundle) -> int:
    return sum(file.size for file in small.manifest.files.values())


def test_it_comes_whole_and_once(run: Run, place: Place, small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out" / "bundle"
    done = run(out, "--digest", digest(small))
    assert is_the_bundle(out, small)
    assert (done["code"], done["bytes"], done["fetched_bytes"]) == (0, total(small), total(small))
    place.wire.cut_after(1)
    again = run(out, "--digest", digest(small))
    assert (again["code"], again["fetched_bytes"]) == (0, 0), "it was there, and no request was sent"


def test_a_lost_connection_is_taken_up_again(run: Run, place: Place, small: Bundle, tmp_path: Path) -> None:
    place.wire.cut_after(LARGE * 3 // 2)
    done = run(tmp_path / "bundle")
    assert place.wire.stopped.is_set()
    assert done["code"] == 0, done
    assert is_the_bundle(tmp_path / "bundle", small)
    assert done["fetched_bytes"] == total(small), "nothing was stored twice"


def test_killed_it_goes_on(run: Run, place: Place, small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    place.wire.cut_after(LARGE * 5 // 2, hold=True)
    process = embedship("pull", place.address, "--out", out, **place.environment)
    assert place.wire.stopped.wait(SECONDS)
    parts = tmp_path / ".bundle.incoming" / "parts"
    assert within(lambda: any(part.stat().st_size >= PIECE for part in parts.iterdir())), "in the middle of a file"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    place.wire.mend()
    assert not out.exists()
    incoming = tmp_path / ".bundle.incoming"
    had = sum(path.stat().st_size for path in incoming.rglob("*") if path.is_file() and path.name != MANIFEST)
    assert had >= LARGE + PIECE
    done = run(out)
    assert is_the_bundle(out, small)
    assert done["fetched_bytes"] == total(small) - had


def test_a_torn_part_is_found(run: Run, place: Place, small: Bundle, tmp_path: Path) -> None:
    """As after a power failure: the length is right, the bytes are not."""
    listed = small.manifest.files[graph(small)]
    parts = tmp_path / ".bundle.incoming" / "parts"
    parts.mkdir(parents=True)
    (parts / listed.sha256).write_bytes(bytes(1_000_000))
    done = run(tmp_path / "bundle")
    assert is_the_bundle(tmp_path / "bundle", small)
    assert done["fetched_bytes"] > total(small) - 1_000_000, "the rest of the damaged part, and all of it again"


def test_a_wrong_byte_is_refused(run: Run, place: Place, small: Bundle, tmp_path: Path) -> None:
    content = bytearray(small.path(graph(small)).read_bytes())
    content[-1] ^= 1
    place.damage(graph(small), bytes(content))
    done = run(tmp_path / "bundle")
    assert done["code"] == 4, done
    assert graph(small) in done["error"]
    assert not (tmp_path / "bundle").exists()
    place.damage(graph(small), small.path(graph(small)).read_bytes())
    assert run(tmp_path / "bundle")["code"] == 0
    assert is_the_bundle(tmp_path / "bundle", small)


@pytest.mark.parametrize("change", [-1_000_000, 1_000_000])
def test_another_length_is_refused(run: Run, place: Place, small: Bundle, tmp_path: Path, change: int) -> None:
    content = small.path(graph(small)).read_bytes()
    place.damage(graph(small), content[:change] if change < 0 else content + bytes(change))
    done = run(tmp_path / "bundle")
    assert done["code"] in (1, 4), done
    assert not (tmp_path / "bundle").exists()


def test_another_digest_is_refused(run: Run, small: Bundle, tmp_path: Path) -> None:
    done = run(tmp_path / "bundle", "--digest", "sha256:" + "0" * 64)
    assert done["code"] == 4
    assert digest(small) in done["error"]
    assert list(tmp_path.glob("*bundle*")) == []


def test_no_secret_is_said(run: Run, place: Place, tmp_path: Path) -> None:
    place.wire.cut_after(1, hold=False)
    done = run(tmp_path / "bundle", "--digest", "sha256:" + "0" * 64)
    assert not any("hidden" in str(value) for value in done.values())


# What all sources have in common is tested with one of them.


@pytest.fixture
def www(small: Bundle, tmp_path: Path) -> Any:
    folder = tmp_path / "www"
    folder.mkdir()
    for name in (MANIFEST, *small.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).hardlink_to(small.path(name))
    with servers.web(folder) as server:
        yield server


@pytest.fixture
def fetch(command: Command) -> Fetch:
    def call(www: Any, out: Path, *more: object) -> Answer:
        return command(f"http://127.0.0.1:{www.port}/", "--out", out, "--retries", 3, *more)

    return call


def test_a_busy_server_is_asked_again(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    www.refusals = [(503, {}), (429, {"Retry-After": "0"}), (200, {"Content-Length": "0"})]
    assert fetch(www, tmp_path / "bundle").code == 4, "an empty manifest"
    www.refusals = [(503, {}), (502, {})]
    assert fetch(www, tmp_path / "bundle").code == 0
    assert is_the_bundle(tmp_path / "bundle", small)


def test_a_server_that_stays_busy_is_given_up(fetch: Fetch, www: Any, tmp_path: Path) -> None:
    www.refusals = [(503, {})] * 3
    answer = fetch(www, tmp_path / "bundle")
    assert answer.code == 1
    assert "503" in answer.stderr
    assert www.refusals == [], "three requests were sent"


def test_whole_files_are_not_asked_for_again(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    """As after a kill: a part is continued from its end."""
    first, second = list(small.manifest.files)[:2]
    incoming = tmp_path / ".bundle.incoming"
    (incoming / "files" / first).parent.mkdir(parents=True)
    (incoming / "files" / first).write_bytes(small.path(first).read_bytes())
    (incoming / "parts").mkdir()
    (incoming / "parts" / small.manifest.files[second].sha256).write_bytes(small.path(second).read_bytes()[:10])
    (incoming / "files" / "stranger").touch()
    (incoming / "parts" / ("0" * 64)).touch()
    assert fetch(www, tmp_path / "bundle").code == 0
    assert is_the_bundle(tmp_path / "bundle", small)
    asked = {each.path.lstrip("/"): each.range for each in www.asked}
    assert first not in asked
    assert asked[second] == "bytes=10-"


def test_two_at_once_fetch_once(www: Any, small: Bundle, tmp_path: Path) -> None:
    address, out = f"http://127.0.0.1:{www.port}/", tmp_path / "bundle"
    both = [embedship("pull", address, "--out", out, "--json") for _ in range(2)]
    fetched = [json.loads(process.communicate(timeout=SECONDS)[0])["fetched_bytes"] for process in both]
    assert sorted(fetched) == [0, total(small)]
    assert is_the_bundle(out, small)


def test_another_bundle_stays_unless_forced(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    Bundle.write(out, msgspec.structs.replace(small.manifest, created="before"))
    answer = fetch(www, out)
    assert (answer.code, "--force" in answer.stderr) == (2, True)
    assert json.loads((out / MANIFEST).read_text())["created"] == "before"
    assert fetch(www, out, "--force").code == 0
    assert is_the_bundle(out, small)


def test_what_is_no_bundle_stays(fetch: Fetch, www: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    for more in ((), ("--force",)):
        assert fetch(www, tmp_path / "mine", *more).code == 2
    assert (tmp_path / "mine" / "thesis").exists()


def test_a_damaged_copy_is_not_called_right(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    assert fetch(www, tmp_path / "bundle").code == 0
    (tmp_path / "bundle" / graph(small)).write_bytes(b"x")
    answer = fetch(www, tmp_path / "bundle", "--digest", digest(small))
    assert answer.code == 4
    assert graph(small) in answer.stderr
    assert "--force" in answer.stderr


@pytest.mark.parametrize("damage", [graph, lambda small: "stranger", lambda small: MANIFEST])
def test_a_damaged_copy_is_fetched_again_if_forced(
    fetch: Fetch, www: Any, small: Bundle, tmp_path: Path, damage: Callable[[Bundle], str]
) -> None:
    out = tmp_path / "bundle"
    pinned = ("--digest", digest(small), "--force")
    assert fetch(www, out, *pinned).code == 0
    (out / damage(small)).write_bytes(b"x")
    asked = len(www.asked)
    assert fetch(www, out, *pinned).code == 0
    assert len(www.asked) > asked
    assert is_the_bundle(out, small)
    asked = len(www.asked)
    assert fetch(www, out, *pinned).code == 0
    assert len(www.asked) == asked, "a right copy is not fetched again"


def test_what_is_left_of_a_bundle_is_completed_if_forced(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert fetch(www, out).code == 0
    (out / MANIFEST).unlink()
    assert fetch(www, out).code == 2
    (out / "mine").touch()
    assert fetch(www, out, "--force").code == 2, "a file that is not the bundle's is not deleted"
    (out / "mine").unlink()
    assert fetch(www, out, "--force").code == 0
    assert is_the_bundle(out, small)


def test_two_at_once_mend_once(www: Any, small: Bundle, tmp_path: Path) -> None:
    address, out = f"http://127.0.0.1:{www.port}/", tmp_path / "bundle"
    embedship("pull", address, "--out", out).communicate(timeout=SECONDS)
    (out / graph(small)).write_bytes(b"x")
    both = [embedship("pull", address, "--out", out, "--force", "--json") for _ in range(2)]
    fetched = [json.loads(process.communicate(timeout=SECONDS)[0])["fetched_bytes"] for process in both]
    assert sorted(fetched) == [0, total(small)]
    assert is_the_bundle(out, small)


def test_a_signature_that_may_not_be_read_is_none(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    """Amazon's S3 answers 403 for a missing file to clients that may read but not list."""
    files = www.answer

    def least_privileged(path: Path, request: servers.Files) -> servers.Answer:
        found: servers.Answer = files(path, request)
        return (403, {}, b"") if found[0] == 404 else found

    www.answer = least_privileged
    assert fetch(www, tmp_path / "bundle").code == 0
    assert is_the_bundle(tmp_path / "bundle", small)
    (tmp_path / "www" / graph(small)).unlink()
    answer = fetch(www, tmp_path / "other")
    assert answer.code == 1, "a file that the bundle lists must exist"
    assert "credentials" in answer.stderr


def test_a_disk_that_fills_up_is_a_sentence(fetch: Fetch, www: Any, small: Bundle, tmp_path: Path) -> None:
    """A limit on file sizes acts like a full disk. With more space the same command continues."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, hard))
    try:
        answer = fetch(www, tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.code == 1
    assert "could not be written: File too large; free some space" in answer.stderr
    assert not (tmp_path / "bundle").exists()
    had = sum(path.stat().st_size for path in (tmp_path / ".bundle.incoming" / "parts").iterdir())
    assert had > 0
    assert fetch(www, tmp_path / "bundle").code == 0
    assert is_the_bundle(tmp_path / "bundle", small)


def test_where_nothing_can_be_written_is_a_sentence(fetch: Fetch, www: Any) -> None:
    answer = fetch(www, Path("/proc/bundle"))
    assert answer.code in (1, 2)
    assert "/proc" in answer.stderr


def test_without_a_network_it_ends_soon(command: Command, tmp_path: Path) -> None:
    with socket.socket() as deaf:  # bound but not listening, so that no other process gets the port
        deaf.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        answer = command(address, "--out", tmp_path / "bundle", "--retries", 2)
    assert answer.code == 1
    assert "cannot be reached" in answer.stderr


def test_a_server_that_breaks_tls_off_is_asked_again(command: Command, tmp_path: Path) -> None:
    """A server may be starting, so it is retried. An untrusted certificate would stay untrusted, so it is not."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(2):
                calls.append(listener.accept()[0].close())

        thread = threading.Thread(target=hang_up)
        thread.start()
        answer = command(
            f"https://localhost:{listener.getsockname()[1]}/", "--out", tmp_path / "bundle", "--retries", 2
        )
        thread.join(SECONDS)
    assert (answer.code, len(calls)) == (1, 2)
    assert "certificate" not in answer.stderr


@pytest.mark.parametrize("address", [
    "ftp://x/y", "oci://minilm", "oci://host/UPPER:v1", "oci://host/name", "s3://", "hf://one", "hf://a/../b@c",
    "http://example.com/bundle/", "https://user:hidden@example.com/",  # pragma: allowlist secret
    "https://example.com/?sig=hidden", "/a/folder",
])  # fmt: skip
def test_an_address_that_cannot_be_right(command: Command, address: str, tmp_path: Path) -> None:
    answer = command(address, "--out", tmp_path / "bundle")
    assert answer.code == 2, answer.stderr
    assert "hidden" not in answer.stderr


Change = Callable[[dict[str, SealedFile]], dict[str, SealedFile]]
ONE = SealedFile(sha256="0" * 64, size=1)
HOSTILE: dict[str, dict[str, SealedFile]] = {
    "up": {"../evil": ONE},
    "inner up": {"a/../../evil": ONE},
    "root": {"/etc/evil": ONE},
    "twice": {"a//b": ONE},
    "dot": {"./a": ONE},
    "a file and a folder": {"a": ONE, "a/b": ONE},
    "the manifest": {MANIFEST: ONE},
    "the signature": {"model.sig": ONE},
    "backslash": {"a\\b": ONE},
    "newline": {"a\nb": ONE},
    "long": {"x" * 256: ONE},
    "no hash": {"a": SealedFile(sha256="../../evil", size=1)},
    "negative": {"a": SealedFile(sha256="0" * 64, size=-1)},
    "huge": {"a": SealedFile(sha256="0" * 64, size=1 << 60)},
    "many": {f"f{i}": ONE for i in range(10_001)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_writes_nothing(fetch: Fetch, small: Bundle, tmp_path: Path, case: str) -> None:
    """The manifest is sealed like a real one; only its content is wrong."""
    files = {**small.manifest.files, **HOSTILE[case]}
    hostile = sealed.seal(msgspec.structs.replace(small.manifest, files=files))
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / MANIFEST).write_bytes(sealed.to_bytes(hostile))
    with servers.web(tmp_path / "www") as server:
        answer = fetch(server, tmp_path / "in" / "bundle")
    assert answer.code == 4, answer.stderr
    assert [each.path for each in server.asked] == [f"/{MANIFEST}"], "no other file was requested"
    assert not (tmp_path / "in" / "bundle").exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != MANIFEST]
    assert left == []


def test_the_honest_manifest_is_modest(small: Bundle) -> None:
    class Nowhere:
        pinned = "nowhere"

    check_size_and_names(Nowhere(), small.manifest.files, total(small))  # type: ignore[arg-type]
    with pytest.raises(UnsafeError, match="--max-bytes"):
        check_size_and_names(Nowhere(), small.manifest.files, total(small) - 1)  # type: ignore[arg-type]
