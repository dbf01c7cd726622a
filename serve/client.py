"""HTTP client of a running server, for `check`, `compare` and `audit`."""

from __future__ import annotations

import http.client
import os
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from embedship.errors import EngineError, UsageError
from embedship.serve.api_keys import API, ApiKeys

T = TypeVar("T")
# Bytes: 2,048 vectors of 4,096 numbers are about 170 MB as JSON.
_MAX_RESPONSE_BYTES = 256 << 20
_MAX_ERROR_BYTES = 10_000


class HttpAnswer(NamedTuple):
    """A response of any server. `retry_after`: seconds after which it wants the request again, if it says so."""

    status: int
    body: bytes
    retry_after: str | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Disables redirects: urllib would send every header, including the API key, to an unverified server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # urllib then raises the redirect as an HTTPError


class ServerClient:
    """Client of one server. Raises EngineError for an invalid response, UsageError if the API key is rejected."""

    def __init__(self, url: str, api_key_file: Path | None, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is not a server address: give http://HOST:PORT")
        self.url = url.rstrip("/")
        keys = ApiKeys.read(api_key_file) if api_key_file else os.environ.get(API.variable, "").split()
        key = keys[0] if keys else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        # No proxy: proxy variables for traffic that leaves a cluster must not apply to this server.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
        """Send GET, or POST with `body` as JSON, and return the response decoded as `kind`."""
        try:
            answer = self.send(path, body)
            if answer.status < 400:
                return msgspec.json.decode(answer.body, type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise EngineError(f"{self.url}{path} returned no valid embedship response: {error}") from None
        text = answer.body[:1_000].decode(errors="replace")
        raise EngineError(f"{self.url}{path} returned status {answer.status}: {text}")

    def send(self, path: str, body: Any = None) -> HttpAnswer:
        """Send GET, or POST with `body` as JSON, and return the response of any status except 3xx and 401.

        Raises OSError if the server does not answer, EngineError for a redirect or an endless response, UsageError if
        the API key is rejected.
        """
        data = None if body is None else msgspec.json.encode(body)
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 - http and https only, see __init__
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                raw = response.read(_MAX_RESPONSE_BYTES + 1)
                if len(raw) > _MAX_RESPONSE_BYTES:
                    raise EngineError(f"{self.url}{path} returned more than {_MAX_RESPONSE_BYTES >> 20} MiB")
                return HttpAnswer(response.status, raw)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(_MAX_ERROR_BYTES)
            if 300 <= error.code < 400:
                raise EngineError(
                    f"{self.url}{path} redirects ({error.code}), but embedship never redirects. The API key was not "
                    "sent on. Give the address of the server itself"
                ) from None
            if error.code == 401:
                raise UsageError(
                    f"{self.url} requires one of its own API keys: give --api-key-file, or set EMBEDSHIP_API_KEYS"
                ) from None
            return HttpAnswer(error.code, text, error.headers.get("Retry-After"))
        except http.client.HTTPException as error:
            raise OSError(f"not a valid HTTP response ({type(error).__name__})") from None
