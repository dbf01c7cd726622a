from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from embedship.errors import UsageError
from embedship.transfer.credentials import RegistryLogin, login

AUTH = base64.b64encode(b"ship:hidden:word").decode()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


@pytest.mark.parametrize(("content", "expected"), [
    ({"auths": {"registry.example": {"auth": AUTH}}}, RegistryLogin("ship", "hidden:word")),
    ({"auths": {"https://registry.example": {"auth": AUTH}}}, RegistryLogin("ship", "hidden:word")),
    ({"auths": {"registry.example": {"username": "a", "password": "b"}}}, RegistryLogin("a", "b")),
    ({"auths": {"registry.example": {"identitytoken": "t"}}}, RegistryLogin("", "", "t")),
    ({"auths": {"another.example": {"auth": AUTH}}}, None),
    ({}, None),
])  # fmt: skip
def test_what_docker_login_wrote(config: Path, content: dict[str, Any], expected: RegistryLogin | None) -> None:
    config.write_text(json.dumps(content))
    assert login("registry.example") == expected
    assert "hidden" not in repr(expected)


def test_nobody_is_logged_in(config: Path) -> None:
    assert login("registry.example") is None


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_is_asked(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    helper = tmp_path / "docker-credential-ours"
    helper.write_text(
        '#!/bin/sh\nread host\n[ "$1 $host" = "get registry.example" ] || exit 1\n'
        'echo \'{"Username": "a", "Secret": "b"}\'\n'
    )
    helper.chmod(0o755)
    config.write_text(json.dumps({key: "ours" if key == "credsStore" else {"registry.example": "ours"}}))
    with pytest.raises(UsageError, match="not on the PATH"):
        login("registry.example")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert login("registry.example") == RegistryLogin("a", "b")
    assert login("another.example") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": {"registry.example": {"auth": "%%%"}}}', '{"auths": 1}'])
def test_a_broken_file_is_a_sentence(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(UsageError, match="log in again"):
        login("registry.example")
