"""What `docker login` left behind: config.json and its credential helpers."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from embedship.errors import UsageError


class RegistryLogin(NamedTuple):
    user: str
    password: str
    refresh: str = ""  # an identity token, which some registries give instead of a password

    def __repr__(self) -> str:
        return f"Login({self.user!r}, ...)"


def login(registry: str) -> RegistryLogin | None:
    """The credentials for a registry (host, host:port), or None.

    Looked for in $DOCKER_CONFIG/config.json, else in ~/.docker/config.json. Raises UsageError if that cannot be read.
    """
    path = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        helper = config.get("credHelpers", {}).get(registry) or config.get("credsStore")
        listed = config.get("auths", {}).get(registry) or config.get("auths", {}).get(f"https://{registry}")
        return _listed(listed) if listed else _helped(helper, registry) if helper else None
    except (ValueError, AttributeError, KeyError, TypeError, binascii.Error):
        raise UsageError(f"{path} is no configuration of Docker's: log in again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _listed(entry: dict[str, Any]) -> RegistryLogin:
    refresh = entry.get("identitytoken", "")
    if "auth" in entry:
        user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        return RegistryLogin(user, password, refresh)
    return RegistryLogin(entry.get("username", ""), entry.get("password", ""), refresh)


def _helped(helper: str, registry: str) -> RegistryLogin | None:
    command = [f"docker-credential-{helper}", "get"]
    try:
        answer = subprocess.run(command, input=registry, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise UsageError(f"{command[0]}, which Docker's config.json names, is not on the PATH") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{command[0]} gave no credentials within 30 s") from None
    if answer.returncode:  # it has none for this registry
        return None
    found = json.loads(answer.stdout)
    user, secret = found["Username"], found["Secret"]
    return RegistryLogin("", "", secret) if user == "<token>" else RegistryLogin(user, secret)
