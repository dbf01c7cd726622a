"""Prompts in an audit: missing, applied twice, another one, and the options that APIs have for them."""

from __future__ import annotations

from typing import Any

import pytest

from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import AuditReport, FaultKind

from .conftest import QUERY, MiniLm, PlainServer, audited


class QueryPrompt(PlainServer):
    prompt = QUERY


class QueryPromptTwice(PlainServer):
    prompt = QUERY * 2


class PromptOption(PlainServer):
    """Applies `prompt_name`. Plain texts get the default prompt."""

    prompts = {"query": QUERY, "document": "", None: QUERY}  # noqa: RUF012 - constant

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.prompt = self.prompts[body.get("prompt_name")]
        return super().answer(path, body)


class IgnoresPromptOption(PromptOption):
    prompts = {"query": QUERY, "document": QUERY, None: QUERY}  # noqa: RUF012 - constant


class RejectsPromptOption(QueryPrompt):
    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (422, {"error": "unknown field"}) if "prompt_name" in body else super().answer(path, body)


def kinds(report: AuditReport) -> list[FaultKind]:
    return [fault.kind for fault in report.faults]


def test_a_missing_prompt_is_found(minilm_tokens: MiniLm, prompted: ReferenceModel) -> None:
    report = audited(prompted, PlainServer(minilm_tokens))
    assert kinds(report) == [FaultKind.PROMPT]
    assert f"uses no prompt, and the model needs the prompt 'query' ({QUERY!r}) here" in report.faults[0].message


def test_a_prompt_that_is_applied_twice_is_found(minilm_tokens: MiniLm, prompted: ReferenceModel) -> None:
    report = audited(prompted, QueryPromptTwice(minilm_tokens))
    assert kinds(report) == [FaultKind.PROMPT]
    assert "before a text twice" in report.faults[0].message


def test_another_prompt_is_found(minilm_tokens: MiniLm, prompted: ReferenceModel) -> None:
    report = audited(prompted, QueryPrompt(minilm_tokens), prompt_name="document")
    assert kinds(report) == [FaultKind.PROMPT]
    assert "uses the prompt 'query'" in report.faults[0].message


@pytest.mark.parametrize(
    ("server", "api", "prompt_name"),
    [
        (QueryPrompt, "openai", None),
        (PlainServer, "openai", "document"),
        (PromptOption, "tei", None),
        (RejectsPromptOption, "tei", None),
    ],
)
def test_right_prompts_are_right(
    server: type[PlainServer],
    api: str,
    prompt_name: str | None,
    minilm_tokens: MiniLm,
    prompted: ReferenceModel,
) -> None:
    report = audited(prompted, server(minilm_tokens), api=api, prompt_name=prompt_name)
    assert report.passed, report.faults
    if server is RejectsPromptOption:
        assert any("rejects prompt_name 'query'" in remark for remark in report.remarks)


def test_an_ignored_option_for_prompts_is_found(minilm_tokens: MiniLm, prompted: ReferenceModel) -> None:
    report = audited(prompted, IgnoresPromptOption(minilm_tokens), api="tei")
    assert kinds(report) == [FaultKind.PROMPT]
    assert "with prompt_name document, the server uses the prompt 'query'" in report.faults[0].message
