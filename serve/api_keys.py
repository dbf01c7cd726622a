"""API keys: check which clients may send requests. Without any key, every client that reaches the server may do so.

Admin keys permit the /admin/ routes. Write keys and admin keys permit changes to the index.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from embedship.errors import UsageError
from embedship.serve.errors import Unauthorised

logger = logging.getLogger(__name__)

# Other environment variables of embedship that contain secrets.
_SECRETS = frozenset({"EMBEDSHIP_MILVUS_TOKEN"})


class KeyScope(NamedTuple):
    """Kind of key: the environment variable and the file option that provide its keys."""

    variable: str
    option: str


API = KeyScope("EMBEDSHIP_API_KEYS", "--api-key-file")
ADMIN = KeyScope("EMBEDSHIP_ADMIN_KEYS", "--admin-key-file")
WRITE = KeyScope("EMBEDSHIP_WRITE_KEYS", "--write-key-file")
SHORTEST = 16  # characters; keys should be generated, for example by `openssl rand -hex 32`
_SCHEME = b"bearer "


class ApiKeys:
    """A set of keys. Only their SHA-256 digests are stored, and no key is ever printed."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(dict.fromkeys(_digest(key.encode()) for key in keys))

    @classmethod
    def open(cls, file: Path | None, environment: Mapping[str, str] = os.environ, scope: KeyScope = API) -> Self:
        """Return the keys of a file (one per line) and of the environment variable (separated by white space).

        Empty lines and lines that start with # are ignored. Raises UsageError for a file without keys, and for a key
        that is too short or is not visible ASCII. The message names the position of the key, never the key.
        """
        variable = scope.variable
        keys = {f"{variable}, key {i}": key for i, key in enumerate(environment.get(variable, "").split(), 1)}
        if variable in environment and not keys:
            raise UsageError(f"{variable} contains no key: unset it, or set a key")
        if file is not None:
            keys |= _read(file, scope.option)
        for place, key in keys.items():
            if len(key) < SHORTEST or not (key.isascii() and key.isprintable() and " " not in key):
                raise UsageError(
                    f"{place}: a key must have at least {SHORTEST} visible ASCII characters; create one with "
                    "`openssl rand -hex 32`"
                )
        return cls(keys.values())

    @staticmethod
    def read(file: Path) -> list[str]:
        """Return the keys of a file, for a client. Raises UsageError for a file without keys."""
        return list(_read(file, API.option).values())

    def __or__(self, others: ApiKeys) -> ApiKeys:
        """Return the keys of both sets."""
        both = ApiKeys()
        both._digests = tuple(dict.fromkeys((*self._digests, *others._digests)))
        return both

    def __len__(self) -> int:
        return len(self._digests)

    def require(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise Unauthorised if this set has keys and the request carries none of them."""
        header = _authorization(headers)
        if self._digests and not self._contains(header):
            problem = "The API key is not one of this server's" if header else "This server requires an API key"
            raise Unauthorised(
                f"{problem}: send the header Authorization: Bearer KEY.", headers={"WWW-Authenticate": "Bearer"}
            )

    def carried_by(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the request carries one of these keys."""
        return self._contains(_authorization(headers))

    def _contains(self, header: bytes) -> bool:
        """Compare with every key, in a time that does not depend on where they differ."""
        digest = _digest(header[len(_SCHEME) :].strip())
        matches = sum([hmac.compare_digest(digest, each) for each in self._digests])
        return bool(matches) and header[: len(_SCHEME)].lower() == _SCHEME


def _authorization(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return next((value for name, value in headers if name == b"authorization"), b"")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process that needs no secrets: without this server's keys and Milvus' token.

    >>> without_secrets({"EMBEDSHIP_API_KEYS": "secret", "EMBEDSHIP_PORT": "80", "HOME": "/"})
    {'EMBEDSHIP_PORT': '80', 'HOME': '/'}
    """
    secrets = {*_SECRETS, *(scope.variable for scope in (API, ADMIN, WRITE))}
    return {name: value for name, value in environment.items() if name not in secrets}


def _read(file: Path, option: str) -> dict[str, str]:
    try:
        if file.stat().st_mode & stat.S_IROTH:
            logger.warning("%s %s can be read by every user of this machine: run `chmod o-r` on it", option, file)
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{option} {file} cannot be read: {reason}") from None
    stripped = {f"{file}, line {number}": line.strip() for number, line in enumerate(lines, 1)}
    keys = {place: line for place, line in stripped.items() if line and not line.startswith("#")}
    if not keys:
        raise UsageError(f"{option} {file} contains no key, so every request would be rejected: write one key per line")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
