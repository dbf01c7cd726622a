"""Requests and responses of the embeddings APIs that an audit knows: OpenAI, TEI, Infinity, Cohere, Ollama."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from embedship.bundle import ModelSpec
from embedship.codes import Vectors


class InvalidAnswer(ValueError):
    """A response with status 200 that is not a list of vectors. The message continues a sentence: "the server ..."."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One request. `prompt`: the value of the API's own option for prompts; None leaves the option out."""

    texts: Sequence[str]
    model: str
    prompt: str | None = None
    packed: bool = False  # vectors as base64


@dataclass(frozen=True, slots=True)
class EmbeddingRows:
    """The vectors of a response, (n, dim) float32, in the order of the texts.

    `positions`: the `index` of each entry in the order of the response. `packed`: the vectors came as base64.
    """

    vectors: Vectors
    positions: tuple[int, ...]
    packed: bool = False


class EmbeddingApi:
    """OpenAI's API, and the base of the others."""

    name = "openai"
    path = "/v1/embeddings"
    models_path: str | None = "/v1/models"
    packs = True  # can return base64
    prompt_option = ""  # the API's own option for prompts

    def body(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Return the JSON body of a request."""
        kind = "base64" if request.packed else "float"
        return {"input": list(request.texts), "model": request.model, "encoding_format": kind}

    def rows(self, answer: Any) -> EmbeddingRows:
        """Return the vectors of a decoded response. Raises InvalidAnswer."""
        entries = _list(_get(answer, "data"), "data")
        vectors = [_get(entry, "embedding") for entry in entries]
        indexes = [entry.get("index", place) for place, entry in enumerate(entries)]
        if sorted(map(str, indexes)) != sorted(map(str, range(len(entries)))):
            raise InvalidAnswer(f"numbers its vectors {str(indexes)[:80]} instead of 0 to {len(entries) - 1}")
        packed = any(isinstance(each, str) for each in vectors)
        rows = matrix([_unpacked(each) if isinstance(each, str) else each for each in vectors])
        positions = tuple(int(index) for index in indexes)
        return EmbeddingRows(rows[np.argsort(positions)], positions, packed)

    def models(self, answer: Any) -> list[str]:
        """Return the names in a decoded response of `models_path`."""
        return [str(each["id"]) for each in _list(_get(answer, "data"), "data") if "id" in each]

    def prompt_values(self, model: ModelSpec) -> dict[str, str]:
        """Return the values of the API's option for prompts: value -> the prompt of the model that it selects."""
        return {}

    def plain_prompt(self, model: ModelSpec, name: str | None) -> str:
        """Return the prompt for texts that are sent without one. `name`: the prompt that the server is set to use."""
        return model.prompt(name)


class InfinityApi(EmbeddingApi):
    """Infinity's API: the same as OpenAI's, at another path."""

    name = "infinity"
    path = "/embeddings"
    models_path = "/models"


class _RowsApi(EmbeddingApi):
    """Base of the APIs that return a plain list of vectors."""

    packs = False

    def _plain(self, vectors: Any, field: str) -> EmbeddingRows:
        rows = matrix(_list(vectors, field))
        return EmbeddingRows(rows, tuple(range(len(rows))))


class TeiApi(_RowsApi):
    """The API of text-embeddings-inference."""

    name = "tei"
    path = "/embed"
    models_path = None
    prompt_option = "prompt_name"

    def body(self, request: EmbeddingRequest) -> dict[str, Any]:
        prompt = {} if request.prompt is None else {"prompt_name": request.prompt}
        return {"inputs": list(request.texts), "truncate": True, **prompt}

    def rows(self, answer: Any) -> EmbeddingRows:
        return self._plain(answer, "the response")

    def prompt_values(self, model: ModelSpec) -> dict[str, str]:
        return dict(model.prompts)


class CohereApi(_RowsApi):
    """Cohere's API, version 2."""

    name = "cohere"
    path = "/v2/embed"
    models_path = None
    prompt_option = "input_type"

    def body(self, request: EmbeddingRequest) -> dict[str, Any]:
        kind = request.prompt or "search_document"
        options = {"embedding_types": ["float"], "truncate": "END"}
        return {"texts": list(request.texts), "model": request.model, "input_type": kind, **options}

    def rows(self, answer: Any) -> EmbeddingRows:
        return self._plain(_get(_get(answer, "embeddings"), "float"), "embeddings.float")

    def prompt_values(self, model: ModelSpec) -> dict[str, str]:
        names = {"search_query": model.query_prompt, "search_document": model.document_prompt}
        return {kind: model.prompt(name) for kind, name in names.items()}

    def plain_prompt(self, model: ModelSpec, name: str | None) -> str:
        return model.prompt(name or model.document_prompt)  # every request has an input_type


class OllamaApi(_RowsApi):
    """Ollama's API."""

    name = "ollama"
    path = "/api/embed"
    models_path = "/api/tags"

    def body(self, request: EmbeddingRequest) -> dict[str, Any]:
        return {"input": list(request.texts), "model": request.model, "truncate": True}

    def rows(self, answer: Any) -> EmbeddingRows:
        return self._plain(_get(answer, "embeddings"), "embeddings")

    def models(self, answer: Any) -> list[str]:
        return [str(each["name"]) for each in _list(_get(answer, "models"), "models") if "name" in each]


# In the order in which they are tried. Most clients use OpenAI's API.
APIS: Mapping[str, EmbeddingApi] = MappingProxyType(
    {api.name: api for api in (EmbeddingApi(), TeiApi(), InfinityApi(), CohereApi(), OllamaApi())}
)


def matrix(rows: Sequence[Any]) -> Vectors:
    """Return rows of numbers as (n, dim) float32; null becomes NaN. Raises InvalidAnswer."""
    if any(not isinstance(row, list | np.ndarray) or len(row) == 0 for row in rows):
        raise InvalidAnswer("returns something that is not a list of numbers as a vector")
    if len({len(row) for row in rows}) > 1:
        raise InvalidAnswer(f"returns vectors of different lengths: {sorted({len(row) for row in rows})}")
    try:
        numbers = [row if isinstance(row, np.ndarray) else [np.nan if x is None else x for x in row] for row in rows]
        return np.array(numbers, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidAnswer("returns a vector with something that is not a number") from None


def _unpacked(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidAnswer("returns a vector that is not valid base64") from None
    if len(raw) % 4:
        raise InvalidAnswer(f"returns base64 of {len(raw)} bytes, which are not float32 numbers")
    return np.frombuffer(raw, dtype="<f4")


def _get(value: Any, key: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise InvalidAnswer(f"returns no field {key!r}: {str(value)[:80]}")
    return value[key]


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidAnswer(f"returns no list in {field}: {str(value)[:80]}")
    return value
