"""AuditedServer: sends texts to a server through one API, with retries and within limits."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedship.errors import EngineError, UsageError
from embedship.serve.audit.apis import APIS, EmbeddingApi, EmbeddingRequest, EmbeddingRows, InvalidAnswer
from embedship.serve.client import HttpAnswer, ServerClient

_BUSY = {429, 502, 503, 504}
_ATTEMPTS, _LONGEST_WAIT_SECONDS = 4, 10.0
# The base URL of an OpenAI client ends with this version. The paths of the APIs include it.
_VERSION = "/v1"
_PROBE = "A text to find out which API this server has."


class RequestRejected(Exception):
    """The server rejected a request with status 4xx. The message contains that of the server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


class ServerFailed(EngineError):
    """The server answered with status 5xx, or was busy for too long."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to reach the server. If `api` or `model` is None, the audit finds it out from the server."""

    url: str
    api: str | None = None
    model: str | None = None
    api_key_file: Path | None = None
    timeout: float = 30.0  # seconds per request


class AuditedServer:
    """A server and the API through which it is audited. Thread-safe. `requests` counts the requests sent."""

    def __init__(self, client: ServerClient, api: EmbeddingApi, model: str) -> None:
        self.client = client
        self.api = api
        self.model = model
        self.requests = 0
        self._lock = threading.Lock()

    @classmethod
    def find(cls, options: ServerOptions, known_as: str) -> Self:
        """Find the API and the name of the model. `known_as` is the model's name in the bundle.

        Raises EngineError if the server does not answer, UsageError if none of the APIs answers at this address.
        """
        url, candidates = _candidates(options)
        client = ServerClient(url, options.api_key_file, options.timeout)
        reasons: list[str] = []
        for api in candidates:
            server = cls(client, api, options.model or known_as)
            try:
                server.model = options.model or server._find_model(known_as)
                server.embed([_PROBE])
            except (RequestRejected, InvalidAnswer, ServerFailed) as error:
                reasons.append(f"{api.name} at {api.path} ({str(error)[:120]})")
                continue
            return server
        raise UsageError(
            f"{url} answers no embeddings request: {'; '.join(reasons)}. Give the address before the path of the API, "
            "and --api and --model if they are known"
        )

    def embed(self, texts: Sequence[str], prompt: str | None = None, *, packed: bool = False) -> EmbeddingRows:
        """Return the vectors of the texts from one request.

        Raises RequestRejected for 4xx, ServerFailed for 5xx, InvalidAnswer for a response that is not one vector per
        text, EngineError if the server does not answer.
        """
        answer = self._send(self.api.path, self.api.body(EmbeddingRequest(texts, self.model, prompt, packed)))
        rows = self.api.rows(_decoded(answer))
        if len(rows.vectors) != len(texts):
            raise InvalidAnswer(f"returns {len(rows.vectors)} vectors for {len(texts)} texts")
        return rows

    def _send(self, path: str, body: Any = None) -> HttpAnswer:
        for attempt in range(_ATTEMPTS):
            with self._lock:
                self.requests += 1
            try:
                answer = self.client.send(path, body)
            except OSError as error:
                # A small server may close connections when many arrive at once.
                if attempt == 0 and self.requests > 1:
                    time.sleep(1.0)
                    continue
                raise EngineError(f"{self.client.url}{path} does not answer: {error}") from None
            if answer.status not in _BUSY or attempt == _ATTEMPTS - 1:
                break
            time.sleep(_seconds(answer.retry_after))
        if answer.status >= 500 or answer.status in _BUSY:
            raise ServerFailed(f"{self.client.url}{path} returned status {answer.status}: {_message(answer)}")
        if answer.status >= 400:
            raise RequestRejected(answer.status, _message(answer))
        return answer

    def _find_model(self, known_as: str) -> str:
        """Return the model name to send: the bundle's name, or the only name that the server lists.

        Raises UsageError if the server lists several names and the bundle's name is not among them.
        """
        if self.api.models_path is None:
            return known_as
        try:
            names = self.api.models(_decoded(self._send(self.api.models_path)))
        except (RequestRejected, InvalidAnswer, ServerFailed):
            return known_as
        if known_as in names or not names:
            return known_as
        if len(names) > 1:
            raise UsageError(f"{self.client.url} has several models: give --model and one of: {', '.join(names[:20])}")
        return names[0]


def _candidates(options: ServerOptions) -> tuple[str, list[EmbeddingApi]]:
    """Return the URL without the path of an API, and the APIs to try at this URL."""
    url = options.url.rstrip("/")
    wanted = list(APIS.values())
    if options.api is not None:
        if options.api not in APIS:
            raise UsageError(f"--api {options.api}: there are {', '.join(APIS)}")
        wanted = [APIS[options.api]]
    for api in sorted(wanted, key=lambda each: -len(each.path)):
        if url.endswith(api.path):
            return url.removesuffix(api.path), [api]
    return url.removesuffix(_VERSION), wanted


def _decoded(answer: HttpAnswer) -> Any:
    try:
        return json.loads(answer.body)  # unlike msgspec, it accepts the NaN that some servers write
    except ValueError:
        raise InvalidAnswer(f"returns something that is not JSON: {answer.body[:80]!r}") from None


def _message(answer: HttpAnswer) -> str:
    return re.sub(r"\s+", " ", answer.body[:300].decode(errors="replace"))


def _seconds(header: str | None) -> float:
    known = header is not None and re.fullmatch(r"\d+(\.\d+)?", header)
    return min(float(header) if known and header else 1.0, _LONGEST_WAIT_SECONDS)
