from __future__ import annotations

import msgspec
import pytest

from embedship.serve import errors
from embedship.serve.errors import ERROR_MAPPINGS, ApiDialect, Invalid, RequestError


def test_the_table_knows_every_error_and_the_drawing_every_line() -> None:
    assert set(ERROR_MAPPINGS) == set(RequestError.__subclasses__())
    for kind, answer in ERROR_MAPPINGS.items():
        assert f"── {kind.__name__:<16} {answer.openai} {answer.flat}" in (errors.__doc__ or "")


def test_every_reason_is_one_error() -> None:
    reasons = [*errors.REJECTIONS, *errors.FAILURES]
    assert len(set(reasons)) == len(reasons) == len(ERROR_MAPPINGS)


@pytest.mark.parametrize("kind", ERROR_MAPPINGS)
def test_both_shapes_carry_the_sentence(kind: type[RequestError]) -> None:
    error = kind("Do it so.", "input")
    openai = msgspec.json.decode(errors.body(error, ApiDialect.OPENAI, "a7"), type=errors.OpenAIError)
    flat = msgspec.json.decode(errors.body(error, ApiDialect.FLAT, "a7"), type=errors.FlatError)
    assert (openai.error.message, openai.error.param, flat.error) == ("Do it so.", "input", "Do it so.")


@pytest.mark.parametrize(
    ("family", "where"),
    [(ApiDialect.OPENAI, "error.request_id"), (ApiDialect.INFINITY, "error.request_id"), (ApiDialect.FLAT,
        "request_id"),
     (ApiDialect.COHERE, "id")],
)  # fmt: skip
def test_every_shape_names_the_request(family: ApiDialect, where: str) -> None:
    told = msgspec.json.decode(errors.body(Invalid("Do it so."), family, "a7"))
    for key in where.split("."):
        told = told[key]
    assert told == "a7"
