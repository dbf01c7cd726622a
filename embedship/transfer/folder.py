"""A bundle's files below a URL: any web server, and the hub that serves models so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests

from embedship.errors import UsageError
from embedship.transfer.errors import TransferError
from embedship.transfer.web import BearerAuth, HttpRequest, HttpSession, body, is_loopback, ranged, send


class WebFolder:
    """`https://host/path/`: bundle.json lies there, and what it lists beside it. Credentials come from ~/.netrc."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc or not parts.hostname:
            said = f"{parts.scheme}://{parts.hostname or ''}"
            raise UsageError(f"{said}: give the plain address of a folder; credentials belong into ~/.netrc")
        self.pinned = url.rstrip("/") + "/"
        self.proves_itself = parts.scheme == "https" or is_loopback(parts.hostname)
        self._session = HttpSession()

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        with send(self._session, ranged(HttpRequest("GET", self.pinned + quote(name)), offset)) as answer:
            yield from body(answer, offset)


class HubFolder:
    """`hf://organisation/model@revision`, read by the hub's documented address of a file.

    A branch or tag is resolved to its commit by the first answer, and all else is read from that commit. The token is
    where the hub's own tools look for it: HF_TOKEN, or the file that they write; HF_ENDPOINT names a mirror.
    """

    def __init__(self, address: str) -> None:
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?", address)
        if not found or ".." in address:
            raise UsageError(f"hf://{address}: give hf://organisation/model@revision")
        self._repository, self._revision = found[1], found[2] or "main"
        self._home = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        where = urlsplit(self._home)
        self.proves_itself = where.scheme == "https" or is_loopback(where.hostname)
        token = _token()
        self._auth = BearerAuth(token) if token and self.proves_itself else None
        self._session = HttpSession()

    @property
    def pinned(self) -> str:
        return f"hf://{self._repository}@{self._revision}"

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        url = f"{self._home}/{self._repository}/resolve/{quote(self._revision, safe='')}/{quote(name)}"
        with send(self._session, ranged(HttpRequest("GET", url, auth=self._auth), offset)) as answer:
            self._resolve(answer)
            yield from body(answer, offset)

    def _resolve(self, answer: requests.Response) -> None:
        """The commit stands in the hub's own answer, which may redirect to where large files lie."""
        first = (answer.history or [answer])[0]
        commit = first.headers.get("X-Repo-Commit")
        if commit is None:
            return
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise TransferError(f"{urlsplit(self._home).netloc} names a commit that is none")
        self._revision = commit


def _token() -> str | None:
    if given := os.environ.get("HF_TOKEN"):
        return given.strip()
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    return file.read_text().strip() or None if file.is_file() else None
