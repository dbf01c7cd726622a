"""HTTP client of a running server, for `check` and `compare`."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from embedship.errors import EngineError, UsageError
from embedship.serve.api_keys import API, ApiKeys

T = TypeVar("T")


# Bytes: 2,048 vectors of 4,096 numbers as JSON are some 170 MB.
_LARGEST_ANSWER = 256 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib sends every header on to wherever it is redirected, the API key too, and the server is not proven yet."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # then the redirect is raised as an HTTPError


class ServerClient:
    """A client of one server. Raises EngineError when it does not answer as it should, UsageError when it refuses."""

    def __init__(self, url: str, api_key_file: Path | None, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no address: give http://HOST:PORT")
        self.url = url.rstrip("/")
        found = ApiKeys.read(api_key_file) if api_key_file else os.environ.get(API.variable, "").split()
        key = found[0] if found else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        # No proxy: an environment made for the way out of a cluster would send this there.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def __call__(self, path: str, kind: type[T], body: Any = None) -> T:
        data = None if body is None else msgspec.json.encode(body)
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 - http and https only, see __init__
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                raw = answer.read(_LARGEST_ANSWER + 1)
                if len(raw) > _LARGEST_ANSWER:
                    raise EngineError(f"{self.url}{path} answered with more than {_LARGEST_ANSWER >> 20} MiB")
                return msgspec.json.decode(raw, type=kind)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(1_000).decode(errors="replace")
            if 300 <= error.code < 400:
                raise EngineError(
                    f"{self.url}{path} redirects ({error.code}), which no embedship does: the API key was not sent on. "
                    "Give the address of the server itself"
                ) from None
            if error.code == 401:
                raise UsageError(
                    f"{self.url} wants an API key of its own: give --api-key-file, or EMBEDSHIP_API_KEYS"
                ) from None
            raise EngineError(f"{self.url}{path} answered {error.code}: {said}") from None
        except (OSError, msgspec.DecodeError) as error:
            raise EngineError(f"{self.url}{path} gave no answer of embedship: {error}") from None
