"""Error messages of the JSON decoder, in the words of our own messages."""

from __future__ import annotations

import re

_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_WRONG_TYPE = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`(?: - at `\$\.?(.+)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?(.+)`)?")
_MALFORMED = re.compile(r"JSON is malformed: (.+)")
_TRUNCATED = "Input data was truncated"


def explain(error: Exception) -> str:
    """Return what is wrong with a line of JSON. Unknown messages are returned as they are."""
    message = str(error)
    if match := _WRONG_TYPE.fullmatch(message):
        expected = " or ".join(_TYPES.get(each, each) for each in match[1].split(" | "))
        subject = f"`{match[3]}`" if match[3] else "the line"
        return f"{subject} must be {expected}, not {_TYPES.get(match[2], match[2])}"
    if match := _MISSING.fullmatch(message):
        return f"`{f'{match[2]}.' if match[2] else ''}{match[1]}` is missing"
    if match := _MALFORMED.fullmatch(message):
        return f"this is not JSON ({match[1]}): write one JSON object per line"
    if message == _TRUNCATED:
        return "the JSON object is not complete: write one whole object per line"
    return message
