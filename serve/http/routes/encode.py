"""POST /v1/encode: our own door, with rows of bytes for who accepts them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np

from embedship.bundle import Code
from embedship.codes import Vectors
from embedship.packing import packed
from embedship.serve import schemas
from embedship.serve.batching.model_client import Encoded
from embedship.serve.errors import Family, Invalid, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import Call, Headers, Reply, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import Service

BYTES = b"application/octet-stream"


def routes(service: Service) -> tuple[Route, ...]:
    return (
        Route("POST", "/v1/encode", "Vectors as bytes or JSON, in the precision asked for", Encode(service).encode,
              schemas.EncodeRequest, schemas.EncodeReply, Family.FLAT, (*common.COMMON, TooLong), binary=True),
    )  # fmt: skip


class Encode:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._codes = service.bundle.manifest.codes

    async def encode(self, request: schemas.EncodeRequest, call: Call) -> Reply:
        inputs = common.checked(request.texts, "texts", self._service.settings)
        common.check_dimensions(request.dimensions, self._model.dimensions)
        self._check(request)
        encoded = await self._service.pipeline.embed(inputs, request.prompt_name, request.truncate, call.lane)
        rows = self._rows(common.shortened(encoded.vectors, request.dimensions), request.dtype)
        if BYTES.decode() in (call.header(b"accept") or ""):
            return Reply(rows.tobytes(), content_type=BYTES, headers=_headers(encoded, rows, request.dtype))
        body = await common.written(lambda: self._json(encoded, rows, request.dtype), len(rows))
        return Reply(body, headers=_headers(encoded, rows, request.dtype))

    def _check(self, request: schemas.EncodeRequest) -> None:
        dimension = request.dimensions or self._model.dimension
        if request.dtype is Code.UBINARY and dimension % 8:
            raise Invalid(f"dtype: {dimension} dimensions cannot be packed, eight to a byte.", "dtype")

    def _rows(self, vectors: Vectors, dtype: Code) -> np.ndarray[Any, Any]:
        """Rows as they go out: little-endian, without gaps."""
        rows = packed(vectors, dtype, self._model, self._codes)
        return rows.astype(rows.dtype.newbyteorder("<"), order="C", copy=False)

    def _json(self, encoded: Encoded, rows: np.ndarray[Any, Any], dtype: Code) -> bytes:
        vectors = float_json.rows(rows) if dtype is Code.FLOAT32 else _raw(rows)
        fingerprint = self._service.bundle.fingerprint
        shape = list(rows.shape)
        return common.encode(schemas.EncodeReply(vectors, dtype, shape, fingerprint, encoded.lengths, encoded.cut))


def _raw(rows: np.ndarray[Any, Any]) -> list[list[float]]:
    return cast("list[list[float]]", [msgspec.Raw(common.encode(row.tolist())) for row in rows])


def _headers(encoded: Encoded, rows: np.ndarray[Any, Any], dtype: Code) -> Headers:
    return (
        *common.truncated(encoded),
        (b"x-embedship-dtype", dtype.encode()),
        (b"x-embedship-shape", b"%d,%d" % rows.shape),
        (b"x-embedship-tokens", b"%d" % encoded.tokens),
    )
