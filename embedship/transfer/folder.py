"""Sources over HTTP: a bundle's files below a URL of a web server, or in a model hub's repository."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests

from embedship.errors import UsageError
from embedship.transfer.errors import TransferError
from embedship.transfer.web import BearerAuth, HttpRequest, HttpSession, body, is_loopback, range_request, send


class WebFolder:
    """`https://host/path/`: the folder of bundle.json and the files that it lists. Credentials are in ~/.netrc."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc or not parts.hostname:
            origin = f"{parts.scheme}://{parts.hostname or ''}"
            raise UsageError(
                f"{origin}: give the address of a folder, without query or user name; put credentials into ~/.netrc"
            )
        self.pinned = url.rstrip("/") + "/"
        self.authenticated = parts.scheme == "https" or is_loopback(parts.hostname)
        self._session = HttpSession()

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """See BundleSource."""
        with send(self._session, range_request(HttpRequest("GET", self.pinned + quote(name)), offset)) as response:
            yield from body(response, offset)


class HubFolder:
    """`hf://organisation/model@revision`, read from the hub's documented file addresses.

    A branch or tag is resolved to its commit by the first response, and all other files are read from that commit. The
    token is read from the same places as by the hub's own tools: HF_TOKEN, or the file that they write. HF_ENDPOINT
    names a mirror.
    """

    def __init__(self, address: str) -> None:
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?", address)
        if not match or ".." in address:
            raise UsageError(f"hf://{address} is not the address of a model: give hf://organisation/model@revision")
        self._repository, self._revision = match[1], match[2] or "main"
        self._endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        parts = urlsplit(self._endpoint)
        self.authenticated = parts.scheme == "https" or is_loopback(parts.hostname)
        token = _token()
        self._auth = BearerAuth(token) if token and self.authenticated else None
        self._session = HttpSession()

    @property
    def pinned(self) -> str:
        """See BundleSource."""
        return f"hf://{self._repository}@{self._revision}"

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """See BundleSource."""
        url = f"{self._endpoint}/{self._repository}/resolve/{quote(self._revision, safe='')}/{quote(name)}"
        with send(self._session, range_request(HttpRequest("GET", url, auth=self._auth), offset)) as response:
            self._pin_commit(response)
            yield from body(response, offset)

    def _pin_commit(self, response: requests.Response) -> None:
        """Read the commit from the hub's own response, before any redirect to the storage of large files."""
        first = (response.history or [response])[0]
        commit = first.headers.get("X-Repo-Commit")
        if commit is None:
            return
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise TransferError(f"{urlsplit(self._endpoint).netloc} sent an invalid commit in X-Repo-Commit")
        self._revision = commit


def _token() -> str | None:
    if token := os.environ.get("HF_TOKEN"):
        return token.strip()
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    return file.read_text().strip() or None if file.is_file() else None
