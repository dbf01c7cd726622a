"""Route for clients of Ollama: POST /api/embed."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from embedship.codes import normalise
from embedship.serve.errors import Invalid, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.schemas import Dimensions, Strict
from embedship.serve.service.service import ModelService

# Options of Ollama's models that cannot change a vector: sampling, and how the model is run.
_IGNORED = frozenset(
    {
        "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "tfs_z", "repeat_last_n",
        "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau",
        "mirostat_eta", "penalize_newline", "stop", "numa", "num_batch", "num_gpu", "main_gpu", "low_vram",
        "use_mmap", "use_mlock", "num_thread",
    }
)  # fmt: skip


class OllamaRequest(Strict, frozen=True):
    """Ollama's POST /api/embed. Of `options`, num_ctx may not be below the length that the model reads."""

    input: str | list[str]
    model: str | None = None
    truncate: bool | None = None  # null and true truncate texts that are too long, false rejects them
    dimensions: Dimensions | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None  # ignored: the model always stays loaded


class OllamaEmbeddings(msgspec.Struct, frozen=True):
    """Unit vectors. Durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: Literal[0]
    prompt_eval_count: int


def routes(service: ModelService) -> tuple[Route, ...]:
    return (
        Route("POST", "/api/embed", "Embeddings, in Ollama's format", OllamaRoutes(service).embed, OllamaRequest,
              OllamaEmbeddings, errors=(*common.COMMON, TooLong)),
    )  # fmt: skip


class OllamaRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name

    async def embed(self, request: OllamaRequest, call: RequestInfo) -> Response:
        began = time.perf_counter_ns()
        self._check(request.options or {})
        inputs = common.validate_texts(request.input, "input", self._service.settings)
        common.check_dimensions(request.dimensions, self._model.dimensions)
        encoded = await self._service.pipeline.embed(inputs, None, request.truncate is not False, call.lane)
        vectors = common.shorten(encoded.vectors, request.dimensions)
        if not self._model.normalised:
            vectors = normalise(vectors)

        def body() -> bytes:
            rows, took = float_json.to_json_rows(vectors), time.perf_counter_ns() - began
            return common.encode(OllamaEmbeddings(self._name, rows, took, 0, encoded.tokens))

        return Response(await common.serialise(body, len(vectors)), headers=common.truncation_headers(encoded))

    def _check(self, options: dict[str, Any]) -> None:
        """Raise Invalid for an option that could change the vectors."""
        for name, value in options.items():
            if name in _IGNORED or value is None:
                continue
            if name == "num_ctx" and isinstance(value, int) and value >= self._model.max_tokens:
                continue
            limit = f" below {self._model.max_tokens}, the length of this model," if name == "num_ctx" else ""
            raise Invalid(f"options.{name}: {value!r}{limit} is not supported; remove the option.", "options")
