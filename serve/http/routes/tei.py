"""Routes for clients of text-embeddings-inference: POST /embed, /, /similarity, /tokenize and /decode."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

from embedship.codes import normalise
from embedship.serve import schemas
from embedship.serve.errors import ApiDialect, Invalid, TooLarge, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import ModelService

if TYPE_CHECKING:
    from tokenizers import Encoding


def routes(service: ModelService) -> tuple[Route, ...]:
    tei = TeiRoutes(service)
    errors = (*common.COMMON, TooLong)
    embed = Route(
        "POST", "/embed", "Embeddings, in the format of text-embeddings-inference", tei.embed,
        schemas.EmbedRequest, list[list[float]], ApiDialect.FLAT, errors,
    )  # fmt: skip
    return (
        embed,
        # huggingface_hub posts to exactly the URL that it is given, which often has no path.
        replace(embed, path="/"),
        Route("POST", "/similarity", "Cosines between one sentence and others", tei.similarity,
              schemas.SimilarityRequest, list[float], ApiDialect.FLAT, errors),
        Route("POST", "/tokenize", "Split texts into tokens", tei.tokenize, schemas.TokenizeRequest,
              list[list[schemas.Token]], ApiDialect.FLAT, common.COMMON),
        Route("POST", "/decode", "Convert token ids to texts", tei.decode, schemas.DecodeRequest,
              list[str], ApiDialect.FLAT, common.COMMON),
    )  # fmt: skip


class TeiRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline

    async def embed(self, request: schemas.EmbedRequest, call: RequestInfo) -> Response:
        inputs = common.validate_texts(request.inputs, "inputs", self._service.settings)
        self._check(request)
        encoded = await self._service.pipeline.embed(
            inputs, request.prompt_name, request.truncate is not False, call.lane
        )
        vectors = common.shorten(encoded.vectors, request.dimensions)
        if request.normalize is not False and not self._model.normalised:
            vectors = normalise(vectors)
        body = await common.serialise(lambda: common.encode(float_json.to_json_rows(vectors)), len(vectors))
        return Response(body, headers=common.truncation_headers(encoded))

    async def similarity(self, request: schemas.SimilarityRequest, call: RequestInfo) -> Response:
        inputs, options = request.inputs, request.parameters or schemas.SimilarityParameters()
        common.validate_texts(inputs.sentences, "inputs.sentences", self._service.settings)
        both = common.validate_texts([inputs.source_sentence, *inputs.sentences], "inputs", self._service.settings)
        common.check_direction(options.truncation_direction)
        encoded = await self._service.pipeline.embed(
            both, options.prompt_name, options.truncate is not False, call.lane
        )
        unit = encoded.vectors if self._model.normalised else normalise(encoded.vectors)
        return Response(common.encode((unit[1:] @ unit[0]).tolist()), headers=common.truncation_headers(encoded))

    async def tokenize(self, request: schemas.TokenizeRequest, call: RequestInfo) -> Response:
        inputs = common.validate_texts(request.inputs, "inputs", self._service.settings)
        pieces = await self._service.inference.tokenize(
            inputs, request.prompt_name, request.add_special_tokens is not False, _token_list, call.lane
        )
        cut = sum(each.truncated for each in pieces)
        body = b"[" + b",".join(each.json for each in pieces) + b"]"
        return Response(body, headers=((b"x-embedship-truncated", b"%d" % cut),))

    async def decode(self, request: schemas.DecodeRequest, call: RequestInfo) -> Response:
        several = all(isinstance(each, list) for each in request.ids)
        if not several and any(isinstance(each, list) for each in request.ids):
            raise Invalid("ids: send the ids of one text, or a list of lists of ids, but not a mixture.", "ids")
        ids = cast("list[list[int]]", request.ids if several else [request.ids])
        common.check_count(len(ids), "ids", self._service.settings)
        if (longest := max(map(len, ids), default=0)) > (most := self._service.settings.max_characters):
            raise TooLarge(f"ids: a text has {longest} token ids; the maximum is {most}.", "ids")
        return Response(
            common.encode(
                await self._service.inference.decode(ids, request.skip_special_tokens is not False, call.lane)
            )
        )

    def _check(self, request: schemas.EmbedRequest) -> None:
        common.check_dimensions(request.dimensions, self._model.dimensions)
        common.check_direction(request.truncation_direction)
        # A model that normalises its vectors itself does so with false as well, as in sentence-transformers.
        if request.normalize is False and request.dimensions not in (None, self._model.dimension):
            raise common.shortened_without_normalising("normalize")
        if request.parameters:
            raise Invalid("parameters: give the options next to `inputs`, not inside `parameters`.", "parameters")


class _TokenList(NamedTuple):
    """The tokens of a text as JSON, and whether it was truncated."""

    json: bytes
    truncated: bool


def _token_list(encoding: Encoding) -> _TokenList:
    marks = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    tokens = [
        schemas.Token(id, text, bool(special), *((None, None) if special else offsets))
        for id, text, special, offsets in marks
    ]
    return _TokenList(common.encode(tokens), bool(encoding.overflowing))
