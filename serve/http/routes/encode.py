"""POST /v1/encode: our own door, with rows of bytes for who accepts them."""

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
        Route("POST", "/v1/encode", "Vectors as bytes or JSON, in the precision asked for",
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
        encoded = await self._service.pipeline.embed(inputs, request.prompt_name, request.truncate, call.lane)
        rows = self._rows(common.shortened(encoded.vectors, request.dimensions), request.dtype)
        if BYTES.decode() in (call.header(b"accept") or ""):
            return Response(rows.tobytes(), content_type=BYTES, headers=_headers(encoded, rows, request.dtype))
        body = await common.serialise(lambda: self._json(encoded, rows, request.dtype), len(rows))
        return Response(body, headers=_headers(encoded, rows, request.dtype))

    def _check(self, request: schemas.EncodeRequest) -> None:
        dimension = request.dimensions or self._model.dimension
        if request.dtype is VectorCode.UBINARY and dimension % 8:
            raise Invalid(f"dtype: {dimension} dimensions cannot be packed, eight to a byte.", "dtype")

    def _rows(self, vectors: Vectors, dtype: VectorCode) -> np.ndarray[Any, Any]:
        """Rows as they go out: little-endian, without gaps."""
        rows = quantize_vectors(vectors, dtype, self._model, self._codes)
        return rows.astype(rows.dtype.newbyteorder("<"), order="C", copy=False)

    def _json(self, encoded: EncodedTexts, rows: np.ndarray[Any, Any], dtype: VectorCode) -> bytes:
        vectors = float_json.to_json_rows(rows) if dtype is VectorCode.FLOAT32 else _raw(rows)
        fingerprint = self._service.bundle.fingerprint
        shape = list(rows.shape)
        return common.encode(schemas.EncodeReply(vectors, dtype, shape, fingerprint, encoded.lengths, encoded.cut))


def _raw(rows: np.ndarray[Any, Any]) -> list[list[float]]:
    return cast("list[list[float]]", [msgspec.Raw(common.encode(row.tolist())) for row in rows])


def _headers(encoded: EncodedTexts, rows: np.ndarray[Any, Any], dtype: VectorCode) -> Headers:
    return (
        *common.truncation_headers(encoded),
        (b"x-embedship-dtype", dtype.encode()),
        (b"x-embedship-shape", b"%d,%d" % rows.shape),
        (b"x-embedship-tokens", b"%d" % encoded.tokens),
    )
