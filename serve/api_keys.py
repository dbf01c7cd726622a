"""API keys: who may ask. Without any, everybody who reaches the server may. Admin keys: who may change what it does.

Write keys: who may change what its index holds, which those with an admin key may, too.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from embedship.errors import UsageError
from embedship.serve.errors import Unauthorised

# What else lies in variables of ours and is a secret.
_SECRETS = frozenset({"EMBEDSHIP_MILVUS_TOKEN"})


class KeyScope(NamedTuple):
    """Where the keys are found: a variable, and a file that an option names."""

    variable: str
    option: str


API = KeyScope("EMBEDSHIP_API_KEYS", "--api-key-file")
ADMIN = KeyScope("EMBEDSHIP_ADMIN_KEYS", "--admin-key-file")
WRITE = KeyScope("EMBEDSHIP_WRITE_KEYS", "--write-key-file")
SHORTEST = 16  # characters; a key is made by a program, for example `openssl rand -hex 32`
_SCHEME = b"bearer "


class ApiKeys:
    """Only digests are held, and no key is ever printed."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(dict.fromkeys(_digest(key.encode()) for key in keys))

    @classmethod
    def open(cls, file: Path | None, environment: Mapping[str, str] = os.environ, purpose: KeyScope = API) -> Self:
        """The keys of a file, one a line, and those of the variable, with white space between them.

        In a file, empty lines and lines that begin with # mean nothing. Raises UsageError for a file that holds no
        key, and for a key that is too short or no visible ASCII; which one is said by its place.
        """
        variable = purpose.variable
        found = {f"{variable}, key {i}": key for i, key in enumerate(environment.get(variable, "").split(), 1)}
        if variable in environment and not found:
            raise UsageError(f"{variable} holds no key: unset it, or give one")
        if file is not None:
            found |= _read(file, purpose.option)
        for place, key in found.items():
            if len(key) < SHORTEST or not (key.isascii() and key.isprintable() and " " not in key):
                raise UsageError(
                    f"{place}: a key is at least {SHORTEST} visible ASCII characters; `openssl rand -hex 32` makes one"
                )
        return cls(found.values())

    @staticmethod
    def read(file: Path) -> list[str]:
        """The keys of a file, for a client. Raises UsageError for a file that holds none."""
        return list(_read(file, API.option).values())

    def __or__(self, others: ApiKeys) -> ApiKeys:
        """Whoever has one of either."""
        both = ApiKeys()
        both._digests = tuple(dict.fromkeys((*self._digests, *others._digests)))
        return both

    def __len__(self) -> int:
        return len(self._digests)

    def require(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise Unauthorised unless one key is there and the request carries it, or there is none."""
        given = _given(headers)
        if self._digests and not self._hold(given):
            why = "The API key is not one of this server's" if given else "This server asks for an API key"
            raise Unauthorised(
                f"{why}: send the header Authorization: Bearer KEY.", headers={"WWW-Authenticate": "Bearer"}
            )

    def carried_by(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the request carries one of these keys."""
        return self._hold(_given(headers))

    def _hold(self, given: bytes) -> bool:
        """Every key is compared, in a time that does not depend on where they differ."""
        digest = _digest(given[len(_SCHEME) :].strip())
        right = sum([hmac.compare_digest(digest, each) for each in self._digests])
        return bool(right) and given[: len(_SCHEME)].lower() == _SCHEME


def _given(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return next((value for name, value in headers if name == b"authorization"), b"")


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours that needs no key: without those of this server, and Milvus' token.

    >>> without({"EMBEDSHIP_API_KEYS": "secret", "EMBEDSHIP_PORT": "80", "HOME": "/"})
    {'EMBEDSHIP_PORT': '80', 'HOME': '/'}
    """
    secrets = {*_SECRETS, *(purpose.variable for purpose in (API, ADMIN, WRITE))}
    return {name: value for name, value in environment.items() if name not in secrets}


def _read(file: Path, option: str) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise UsageError(f"{option} {file} cannot be read: {reason}") from None
    stripped = {f"{file}, line {number}": line.strip() for number, line in enumerate(lines, 1)}
    found = {place: line for place, line in stripped.items() if line and not line.startswith("#")}
    if not found:
        raise UsageError(f"{option} {file} holds no key: with it, nobody could ask. Write one a line")
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
