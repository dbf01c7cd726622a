from __future__ import annotations

import msgspec
import pytest

from embedship.serve import errors
from embedship.serve.errors import ANSWERS, Family, Invalid, RequestError


def test_the_table_knows_every_error_and_the_drawing_every_line() -> None:
    assert set(ANSWERS) == set(RequestError.__subclasses__())
    for kind, answer in ANSWERS.items():
        assert f"── {kind.__name__:<16} {answer.openai} {answer.flat}" in (errors.__doc__ or "")


def test_every_reason_is_one_error() -> None:
    reasons = [*errors.REJECTIONS, *errors.FAILURES]
    assert len(set(reasons)) == len(reasons) == len(ANSWERS)


@pytest.mark.parametrize("kind", ANSWERS)
def test_both_shapes_carry_the_sentence(kind: type[RequestError]) -> None:
    error = kind("Do it so.", "input")
    openai = msgspec.json.decode(errors.body(error, Family.OPENAI, "a7"), type=errors.OpenAIError)
    flat = msgspec.json.decode(errors.body(error, Family.FLAT, "a7"), type=errors.FlatError)
    assert (openai.error.message, openai.error.param, flat.error) == ("Do it so.", "input", "Do it so.")


@pytest.mark.parametrize(
    ("family", "where"),
    [(Family.OPENAI, "error.request_id"), (Family.INFINITY, "error.request_id"), (Family.FLAT, "request_id"),
     (Family.COHERE, "id")],
)  # fmt: skip
def test_every_shape_names_the_request(family: Family, where: str) -> None:
    told = msgspec.json.decode(errors.body(Invalid("Do it so."), family, "a7"))
    for key in where.split("."):
        told = told[key]
    assert told == "a7"
