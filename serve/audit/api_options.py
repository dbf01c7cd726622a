"""Judges the options of an API: its prompts, and vectors as base64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from embedship.codes import Vectors, cosine
from embedship.serve.audit.answers import AuditAnswers
from embedship.serve.audit.apis import EmbeddingApi
from embedship.serve.audit.recipes import EncodingRecipe, name_prompt
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import CheckSummary, FaultKind, ServerFault
from embedship.serve.audit.tolerance import Tolerance


@dataclass(slots=True)
class OptionVerdict:
    """What a test of an option found: summaries, faults and remarks."""

    checks: list[CheckSummary] = field(default_factory=list)
    faults: list[ServerFault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def judge_prompts(
    reference: ReferenceModel, recipe: EncodingRecipe, tolerance: Tolerance, api: EmbeddingApi, answers: AuditAnswers
) -> OptionVerdict:
    """Judge the vectors of texts that were sent with the API's own option for prompts."""
    verdict = OptionVerdict()
    prompts = api.prompt_values(reference.model)
    for value, given in answers.prompted.items():
        known = [(answer.text, answer.vector) for answer in given if answer.vector is not None]
        if not known:
            verdict.remarks.append(f"the server rejects {api.prompt_option} {value!r}: {given[0].error}")
            continue
        texts, rows = [text for text, _ in known], np.stack([vector for _, vector in known])
        right = replace(recipe, prompt=prompts[value])
        cosines = cosine(reference.vectors(texts, right), rows)
        wrong = int((~(cosines >= tolerance.floor(reference.model.max_tokens))).sum())
        used = _used_prompt(reference, right, recipe, tolerance, texts, rows)
        name = f"{api.prompt_option} {value}"
        verdict.checks.append(
            CheckSummary.from_cosines(name, "the model", len(given), cosines, wrong=len(texts) if used else wrong)
        )
        if used is not None or wrong:
            verdict.faults.append(_prompt_fault(reference, name, prompts[value], used, float(cosines.min())))
    return verdict


def _used_prompt(
    reference: ReferenceModel,
    right: EncodingRecipe,
    plain: EncodingRecipe,
    tolerance: Tolerance,
    texts: list[str],
    rows: Vectors,
) -> EncodingRecipe | None:
    """Return the recipe with the prompt that explains the vectors better than the right one; None if there is none."""
    cosines = cosine(reference.vectors(texts, right), rows)
    others = ["", plain.prompt, right.prompt * 2, plain.prompt + right.prompt, *reference.model.prompts.values()]
    for prompt in dict.fromkeys(others):
        other = replace(right, prompt=prompt)
        if prompt != right.prompt and tolerance.explains(cosines, cosine(reference.vectors(texts, other), rows)):
            return other
    return None


def _prompt_fault(
    reference: ReferenceModel, name: str, prompt: str, used: EncodingRecipe | None, worst: float
) -> ServerFault:
    if used is None:
        message = f"with {name}, the vectors are wrong; the cause is not known"
    elif prompt and used.prompt == prompt * 2:
        message = f"with {name}, the server puts {name_prompt(reference.model, prompt)} before a text twice"
    else:
        known = name_prompt(reference.model, used.prompt)
        message = f"with {name}, the server uses {known} instead of {name_prompt(reference.model, prompt)}"
    return ServerFault(FaultKind.PROMPT, message, (f"lowest cosine to the right vectors: {worst:.4f}",))


def judge_packed(answers: AuditAnswers, alone: Mapping[str, Vectors], floor: float) -> OptionVerdict:
    """Judge vectors that were requested as base64: they must be the same as the vectors of numbers, `alone`."""
    verdict, packed = OptionVerdict(), answers.packed
    if not packed:
        return verdict
    known = [(each.text, each.vector) for each in packed if each.vector is not None]
    failed = next((each for each in packed if each.error), None)
    error = failed.error if failed else ""
    if failed and failed.rejected:
        verdict.remarks.append(f"the server rejects encoding_format base64, the default of OpenAI's client: {error}")
    elif error:
        message = "vectors as base64 cannot be read, and OpenAI's client requests them by default"
        verdict.faults.append(ServerFault(FaultKind.ENCODING, message, (f"the server {error}",)))
    elif answers.packed_as_numbers:
        verdict.remarks.append("the server ignores encoding_format base64 and returns numbers, which clients can read")
    else:
        own = np.stack([alone[text] for text, _ in known])
        rows = np.stack([vector for _, vector in known])
        with np.errstate(invalid="ignore"):  # bytes of another type are often NaN when they are read as float32
            same = cosine(own, rows) if own.shape == rows.shape else np.full(len(own), np.nan)
        wrong = int((~(same >= floor)).sum())
        verdict.checks.append(CheckSummary.from_cosines("base64", "the same as numbers", len(own), same, wrong=wrong))
        if wrong:
            verdict.faults.append(_packed_fault(own, rows))
    return verdict


def _packed_fault(own: Vectors, rows: Vectors) -> ServerFault:
    """Return the fault, with the number type of the bytes if they are not little-endian float32."""
    message = "vectors as base64 are not those that come as numbers, and OpenAI's client requests base64 by default"
    raw = [np.ascontiguousarray(row, dtype="<f4").tobytes() for row in rows]
    for name, kind in (("float16", "<f2"), ("float64", "<f8"), ("big-endian float32", ">f4")):
        if len(raw[0]) != own.shape[1] * np.dtype(kind).itemsize:
            continue
        with np.errstate(all="ignore"):
            decoded = np.stack([np.frombuffer(each, dtype=kind) for each in raw]).astype(np.float32)
            if float(np.nan_to_num(cosine(own, decoded), nan=-1.0).min()) >= 0.99:
                hint = f"the bytes are {name} numbers, and clients read little-endian float32"
                return ServerFault(FaultKind.ENCODING, message, (hint,))
    hint = f"{rows.shape[1]:,} float32 numbers, the lowest cosine is "
    with np.errstate(invalid="ignore"):
        value = f"{float(cosine(own, rows).min()):.4f}" if own.shape == rows.shape else "not defined"
    return ServerFault(FaultKind.ENCODING, message, (hint + value,))
