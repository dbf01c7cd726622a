"""API keys: which requests need one, which keys are taken, and that none is ever shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from embedship.errors import UsageError
from embedship.serve.api_keys import API, ApiKeys
from embedship.serve.errors import Unauthorised

VARIABLE = API.variable
KEY, OTHER = "correct-horse-battery", "staple-0123456789"
OPEN = {"/health", "/ready", "/metrics", "/openapi.json", "/monitor/ui"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# the shop\n{KEY}\n\n  {OTHER}  \n")
    return path


@pytest.fixture
def locked(fresh: Callable[..., Any], file: Path, tmp_path: Path) -> Any:
    (tmp_path / "admin").write_text("of-the-administrator")
    return fresh(api_key_file=file, admin_key_file=tmp_path / "admin")


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", key.encode())]


@pytest.mark.parametrize("given", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {OTHER} "])
def test_each_key_opens(file: Path, given: str) -> None:
    ApiKeys.open(file, {}).require(bearer(given))


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"]
)
def test_nothing_else_opens(file: Path, given: str) -> None:
    keys = ApiKeys.open(file, {})
    with pytest.raises(Unauthorised):
        keys.require(bearer(given))
    with pytest.raises(Unauthorised, match="requires an API key"):
        keys.require([])


def test_without_keys_everybody_may_ask() -> None:
    keys = ApiKeys.open(None, {})
    keys.require([])
    assert len(keys) == 0


def test_keys_of_file_and_variable_count_together(file: Path) -> None:
    keys = ApiKeys.open(file, {VARIABLE: f"{'another-key-of-ours'} {KEY}"})
    assert len(keys) == 3
    keys.require(bearer("Bearer another-key-of-ours"))


@pytest.mark.parametrize(
    ("content", "variable", "says"),
    [
        (b"", None, "contains no key"),
        (b"# none yet\n\n", None, "contains no key"),
        (b"long-enough-to-be-one\nshort-secret\n", None, "line 2: a key must have at least 16"),
        (b"with white space in it\n", None, "line 1: a key must have at least 16"),
        ("schlüssel-zum-haus".encode(), None, "line 1: a key must have at least 16"),
        (b"\xff\xfe", None, "cannot be read: it is not UTF-8"),
        (None, None, "cannot be read: No such file"),
        (b"long-enough-to-be-one", " ", f"{VARIABLE} contains no key"),
        (b"long-enough-to-be-one", "short-secret", f"{VARIABLE}, key 1: a key must have at least 16"),
    ],
)
def test_what_is_no_key_is_named_but_not_shown(
    tmp_path: Path, content: bytes | None, variable: str | None, says: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        ApiKeys.open(path, {} if variable is None else {VARIABLE: variable})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o604, True), (0o600, False), (0o440, False)])
def test_a_file_that_everybody_can_read_is_remarked_on(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A Secret that Kubernetes mounts has 0440."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(mode)
    assert len(ApiKeys.open(path, {})) == 1
    assert (f"{path} can be read by every user" in caplog.text) is warned
    assert KEY not in caplog.text


def test_who_has_no_key_gets_nothing_but_probes_and_metrics(locked: Any) -> None:
    document = locked.ask("GET", "/openapi.json").json()
    openapi_spec_validator.validate(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = locked.ask(method.upper(), path, **({"json": {}} if method == "post" else {}))
            assert (answer.status_code == 401) == (path not in OPEN), path
            assert bool(operation.get("security")) == (path not in OPEN), path
    assert locked.metric("embedship_rejections_total", reason="unauthorised") == sum(
        map(len, document["paths"].values())
    ) - len(OPEN)


def test_the_answer_says_what_to_send_in_the_shape_of_the_route(locked: Any) -> None:
    openai = locked.post("/v1/embeddings", {"input": "a"})
    assert openai.headers["www-authenticate"] == "Bearer"
    assert openai.json()["error"]["type"] == "authentication_error"
    assert "Authorization: Bearer KEY" in openai.json()["error"]["message"]
    assert locked.post("/embed", {"inputs": "a"}).json()["error_type"] == "Unauthorized"


def test_a_key_opens_every_route(locked: Any) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/embed", {"inputs": "a"})):
        assert locked.ask("POST", path, json=body, headers=headers).status_code == 200
    for path in ("/info", "/monitor"):
        assert locked.ask("GET", path, headers=headers).status_code == 200


def test_without_keys_the_document_asks_for_none(api: Any) -> None:
    document = api.ask("GET", "/openapi.json").json()
    asking = {
        path for path, operations in document["paths"].items() for each in operations.values() if "security" in each
    }
    assert asking == {"/admin/reload", "/documents", "/documents/{id}"}


def test_the_openai_client_sends_its_key(launch: Callable[..., Any], file: Path) -> None:
    import openai

    live = launch("--api-key-file", str(file))
    base, asked = f"{live.url}/v1", {"model": "m", "input": "a text"}
    with openai.OpenAI(base_url=base, api_key=KEY) as client:
        assert len(client.embeddings.create(**asked).data) == 1
    with (
        openai.OpenAI(base_url=base, api_key="wrong-key-of-nobody") as client,
        pytest.raises(openai.AuthenticationError, match="not one of this server's"),
    ):
        client.embeddings.create(**asked)
    live.process.terminate()
    live.end()
    log = "".join(live.log)
    assert "API keys: 2" in log
    assert KEY not in log
    assert OTHER not in log
