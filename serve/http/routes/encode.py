"""POST /v1/encode: embeddings as raw bytes (for clients that accept them) or JSON, in several data types."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np

from embedship.bundle import VectorCode
from embedship.codes import Vectors
from embedship.packing import quantize_vectors
from embedship.serve import schemas
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.errors import ApiDialect, Invalid, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import Headers, RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import ModelService

BYTES = b"application/octet-stream"


def routes(service: ModelService) -> tuple[Route, ...]:
    return (
        Route("POST", "/v1/encode", "Embeddings as bytes or JSON, in the requested data type",
            EncodeRoutes(service).encode,
              schemas.EncodeRequest, schemas.EncodeReply, ApiDialect.FLAT, (*common.COMMON, TooLong), binary=True),
    )  # fmt: skip


class EncodeRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._codes = service.bundle.manifest.codes

    async def encode(self, request: schemas.EncodeRequest, call: RequestInfo) -> Response:
        inputs = common.validate_texts(request.texts, "texts", self._service.settings)
        common.check_dimensions(request.dimensions, self._model.dimensions)
        self._check(request)
        truncate, dtype = request.truncate is not False, request.dtype or VectorCode.FLOAT32
        encoded = await self._service.pipeline.embed(inputs, request.prompt_name, truncate, call.lane)
        rows = self._rows(common.shorten(encoded.vectors, request.dimensions), dtype)
        if BYTES.decode() in (call.header(b"accept") or ""):
            return Response(rows.tobytes(), content_type=BYTES, headers=_headers(encoded, rows, dtype))
        body = await common.serialise(lambda: self._json(encoded, rows, dtype), len(rows))
        return Response(body, headers=_headers(encoded, rows, dtype))

    def _check(self, request: schemas.EncodeRequest) -> None:
        dimension = request.dimensions or self._model.dimension
        if request.dtype is VectorCode.UBINARY and dimension % 8:
            raise Invalid(
                f"dtype: {dimension} is not a multiple of 8, so the bits cannot be packed into bytes.", "dtype"
            )

    def _rows(self, vectors: Vectors, dtype: VectorCode) -> np.ndarray[Any, Any]:
        """Return the rows in the requested data type, little-endian and contiguous."""
        rows = quantize_vectors(vectors, dtype, self._model, self._codes)
        return rows.astype(rows.dtype.newbyteorder("<"), order="C", copy=False)

    def _json(self, encoded: EncodedTexts, rows: np.ndarray[Any, Any], dtype: VectorCode) -> bytes:
        vectors = float_json.to_json_rows(rows) if dtype is VectorCode.FLOAT32 else _to_json_rows(rows)
        fingerprint = self._service.bundle.fingerprint
        shape = list(rows.shape)
        return common.encode(schemas.EncodeReply(vectors, dtype, shape, fingerprint, encoded.lengths, encoded.cut))


def _to_json_rows(rows: np.ndarray[Any, Any]) -> list[list[float]]:
    return cast("list[list[float]]", [msgspec.Raw(common.encode(row.tolist())) for row in rows])


def _headers(encoded: EncodedTexts, rows: np.ndarray[Any, Any], dtype: VectorCode) -> Headers:
    return (
        *common.truncation_headers(encoded),
        (b"x-embedship-dtype", dtype.encode()),
        (b"x-embedship-shape", b"%d,%d" % rows.shape),
        (b"x-embedship-tokens", b"%d" % encoded.tokens),
    )
