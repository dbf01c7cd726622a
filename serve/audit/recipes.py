"""Ways to make a vector from a text: the model's own way, and wrong ways that are known from servers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from embedship.bundle import ModelSpec
from embedship.codes import Vectors
from embedship.serve.audit.report import FaultKind


class SpecialTokens(StrEnum):
    """What a server does with special tokens around a text. The values continue a sentence: "the server ..."."""

    OWN = "adds the model's special tokens"
    NONE = "leaves out the special tokens of the model"
    TWICE = "adds the special tokens of the model twice"
    NO_END = "loses the special token at the end of a text that it truncates"


@dataclass(frozen=True, slots=True)
class EncodingRecipe:
    """One way to make a vector. The default values are the model's own.

    `pooling`: None is the model's own, computed by its graph. `limit`: maximum number of tokens; None is the
    model's own. `change`: a key of TEXT_CHANGES, or None.
    """

    prompt: str = ""
    pooling: str | None = None
    special_tokens: SpecialTokens = SpecialTokens.OWN
    limit: int | None = None
    from_left: bool = False  # truncation removes the beginning of the text
    change: str | None = None

    @property
    def own_tokens(self) -> bool:
        """Whether the token ids are those of the bundle's tokenizer."""
        return self.special_tokens is SpecialTokens.OWN and self.limit is None and not self.from_left


def _remove(pattern: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, "", text)


_LOWER = "converts texts to lower case"
# What servers do to texts before they tokenise them. The keys continue a sentence: "the server ...".
TEXT_CHANGES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "removes white space at the ends of a text": str.strip,
        "replaces line breaks with spaces": lambda text: re.sub(r"\s*[\r\n]+\s*", " ", text),
        "collapses white space": lambda text: " ".join(text.split()),
        _LOWER: str.lower,
        "removes characters outside ASCII": _remove(r"[^\x00-\x7f]+"),
        "removes control characters": _remove(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
        "removes accents": lambda text: "".join(
            c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn"
        ),
        "normalises Unicode to NFKC": lambda text: unicodedata.normalize("NFKC", text),
        "removes tokens such as [SEP] that are written in a text": _remove(r"\[[A-Z]{3,4}\]"),
        "removes all special tokens that are written in a text": _remove(r"\[[A-Z]{3,4}\]|</?s>|<mask>|<\|[a-z]+\|>"),
        "removes punctuation": _remove(r"[^\w\s]"),
    }
)

Hidden = npt.NDArray[np.float32]  # (tokens, hidden size) of one text

# Pooling functions for one text without padding. "mean without special tokens" leaves out the first and the last token.
POOLINGS: Mapping[str, Callable[[Hidden], npt.NDArray[np.float32]]] = MappingProxyType(
    {
        "cls": lambda hidden: hidden[0],
        "lasttoken": lambda hidden: hidden[-1],
        "mean": lambda hidden: hidden.mean(axis=0),
        "max": lambda hidden: hidden.max(axis=0),
        "weightedmean": lambda hidden: np.average(hidden, axis=0, weights=np.arange(1, len(hidden) + 1)),
        "mean without special tokens": lambda hidden: (hidden[1:-1] if len(hidden) > 2 else hidden).mean(axis=0),
    }
)


def pool(hidden: Sequence[Hidden], pooling: str) -> Vectors:
    """Return (n, hidden size) float32 vectors of n texts, not normalised."""
    return np.stack([POOLINGS[pooling](each) for each in hidden]).astype(np.float32)


def wrong_recipes(model: ModelSpec, expected: EncodingRecipe, poolings: Sequence[str]) -> list[EncodingRecipe]:
    """Return the wrong recipes that affect every text, simplest first. `poolings`: the poolings to try."""
    prompts = list(dict.fromkeys(["", expected.prompt * 2, *model.prompts.values()]))
    others = [prompt for prompt in prompts if prompt != expected.prompt]
    found = [replace(expected, prompt=prompt) for prompt in others]
    found += [replace(expected, pooling=pooling) for pooling in poolings]
    found += [replace(expected, special_tokens=each) for each in (SpecialTokens.NONE, SpecialTokens.TWICE)]
    found += [replace(expected, change=_LOWER)]
    return found + [replace(expected, prompt=prompt, pooling=pooling) for prompt in others for pooling in poolings]


def differences(model: ModelSpec, expected: EncodingRecipe, recipe: EncodingRecipe) -> list[tuple[FaultKind, str]]:
    """Return what a server with this recipe does wrong: kinds of fault, and texts that continue "the server ..."."""
    found: list[tuple[FaultKind, str]] = []
    if recipe.pooling is not None:
        found.append((FaultKind.POOLING, _pooling_difference(model, recipe.pooling)))
    if recipe.prompt != expected.prompt:
        found.append((FaultKind.PROMPT, _prompt_difference(model, expected.prompt, recipe.prompt)))
    if recipe.special_tokens is not SpecialTokens.OWN:
        found.append((FaultKind.TOKENS, str(recipe.special_tokens)))
    if recipe.change is not None:
        found.append((FaultKind.TEXT, recipe.change))
    return found


def name_prompt(model: ModelSpec, prompt: str) -> str:
    """Return the words that name a prompt in a sentence."""
    if not prompt:
        return "no prompt"
    name = next((name for name, text in model.prompts.items() if text == prompt), None)
    return f"the prompt {prompt!r}" if name is None else f"the prompt {name!r} ({prompt!r})"


def _prompt_difference(model: ModelSpec, expected: str, used: str) -> str:
    if expected and used == expected * 2:
        return f"puts {name_prompt(model, expected)} before a text twice"
    return f"uses {name_prompt(model, used)}, and the model needs {name_prompt(model, expected)} here"


def _pooling_difference(model: ModelSpec, pooling: str) -> str:
    if pooling == model.pooling:
        return "leaves out the layers that follow the pooling in the model"
    return f"uses {pooling} pooling, and the model uses {model.pooling} pooling"
