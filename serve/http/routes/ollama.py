"""Route for clients of Ollama: POST /api/embed."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from embedship.codes import normalise
from embedship.serve.errors import Invalid, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.schemas import Dimensions, Strict
from embedship.serve.service.service import ModelService


class OllamaOptions(Strict, frozen=True):
    """Options of Ollama's models. Only `num_ctx` could change a vector: it must be at least the model's length."""

    num_ctx: int | None = None
    # Options for sampling generated text: ignored.
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    tfs_z: float | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalize_newline: bool | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    stop: str | list[str] | None = None
    # Options for running the model: ignored.
    numa: bool | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    low_vram: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None


class OllamaRequest(Strict, frozen=True):
    """Ollama's POST /api/embed."""

    input: str | list[str]
    model: str | None = None
    truncate: bool | None = None  # texts that are too long: null and true truncate them, false rejects them
    dimensions: Dimensions | None = None
    options: OllamaOptions | None = None
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
        self._check(request.options)
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

    def _check(self, options: OllamaOptions | None) -> None:
        """Raise Invalid if `num_ctx` is below the model's maximum length, because it would truncate texts earlier."""
        length = self._model.max_tokens
        if options and options.num_ctx is not None and options.num_ctx < length:
            raise Invalid(
                f"options.num_ctx: {options.num_ctx} is below {length}, the length of this model: remove the option.",
                "options",
            )
