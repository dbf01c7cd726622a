"""Audit: runs every test against a server and says what is wrong with its vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence

from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.errors import EngineError
from embedship.serve.audit import lengths, vectors
from embedship.serve.audit.answers import AuditAnswers
from embedship.serve.audit.api_options import OptionVerdict, judge_packed, judge_prompts
from embedship.serve.audit.batches import judge_batches
from embedship.serve.audit.collect import AnswerCollector
from embedship.serve.audit.recipes import EncodingRecipe
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import AuditReport, CheckSummary, FaultKind, ServerFault
from embedship.serve.audit.server import AuditedServer
from embedship.serve.audit.single import SingleVerdict, judge_single, summarise
from embedship.serve.audit.texts import AuditTexts
from embedship.serve.audit.tolerance import Tolerance
from embedship.serve.progress import bar

_NOTHING_WRONG = SingleVerdict((), frozenset(), {})


class ServerAudit:
    """One audit. `prompt_name`: the prompt that the server should put before plain texts (None: the model's own).

    `required`: the lowest precision that counts as right.
    """

    def __init__(
        self, reference: ReferenceModel, server: AuditedServer, required: Precision, prompt_name: str | None = None
    ) -> None:
        self._reference = reference
        self._server = server
        self._required = required
        self._expected = EncodingRecipe(server.api.plain_prompt(reference.model, prompt_name))
        self._faults: list[ServerFault] = []
        self._remarks: list[str] = []
        self._checks: list[CheckSummary] = []

    def run(self) -> AuditReport:
        """Send the texts and judge the answers. Raises EngineError if the server answers no ordinary text."""
        start = time.perf_counter()
        reference, server = self._reference, self._server
        texts = AuditTexts.from_bundle(reference.bundle, reference.tokenizer, self._expected.prompt)
        total = AnswerCollector.total(server, texts, reference.model)
        with bar("texts", total) as advance:
            answers = AnswerCollector(server, texts, reference.model, advance).collect()
        ordinary, rows = answers.vectors(texts.ordinary)
        if not ordinary:
            error = next((each.error for each in answers.alone.values() if each.error), "")
            raise EngineError(f"{server.client.url} answers none of {len(texts.ordinary)} ordinary texts: {error}")
        precision = None
        if fault := vectors.judge_dimensions(reference, self._expected, ordinary, rows):
            self._faults.append(fault)
            self._judge_batches(answers, _NOTHING_WRONG, reference.bundle.manifest.floors[self._required].minimum)
        else:
            precision = self._judge(texts, answers, ordinary, rows)
        self._judge_errors(texts, answers)
        return AuditReport(
            url=server.client.url,
            api=server.api.name,
            model=server.model,
            reference=reference.bundle.manifest.source.name,
            fingerprint=reference.bundle.fingerprint,
            passed=not self._faults,
            precision=precision,
            required=self._required,
            dimension=rows.shape[1],
            checks=tuple(self._checks),
            faults=tuple(self._faults),
            remarks=tuple(self._remarks),
            requests=server.requests,
            seconds=round(time.perf_counter() - start, 2),
        )

    def _judge(
        self, texts: AuditTexts, answers: AuditAnswers, ordinary: Sequence[str], rows: Vectors
    ) -> Precision | None:
        """Judge vectors that have the right number of dimensions. Return the precision that they match, if any."""
        reference = self._reference
        found = vectors.find_recipe(reference, self._expected, self._required, ordinary, rows)
        tolerance = found.tolerance
        self._faults += found.faults
        self._faults += vectors.judge_norms(reference, self._expected, ordinary, rows)
        self._checks += summarise(reference, self._expected, tolerance, texts, answers)
        single = _NOTHING_WRONG
        if found.recipe is not None:
            single = judge_single(
                reference, found.recipe, tolerance, texts, answers, lambda text: self._server.embed([text]).vectors
            )
            self._faults += single.faults
            self._describe_precision(rows, tolerance)
        self._judge_batches(answers, single, tolerance.batch_floor)
        if found.recipe is not None:
            self._add(judge_prompts(reference, found.recipe, tolerance, self._server.api, answers))
        return tolerance.precision

    def _describe_precision(self, rows: Vectors, tolerance: Tolerance) -> None:
        if tolerance.precision is not None:
            self._remarks.append(
                f"the vectors are as exact as {tolerance.precision}: the distance (1 - cosine) of 4 in 5 ordinary "
                f"texts is at most {tolerance.noise:.1e}"
            )
        if kind := vectors.name_number_format(rows):
            self._remarks.append(f"every number of the vectors is a {kind}")

    def _judge_batches(self, answers: AuditAnswers, single: SingleVerdict, floor: float) -> None:
        alone = {
            text: answer.vector
            for text, answer in answers.alone.items()
            if answer.vector is not None and text not in single.wrong
        }
        verdict = judge_batches(answers.batches, alone, floor)
        self._checks += verdict.checks
        if single.lengths or verdict.lengths:
            self._faults.append(lengths.describe_shapes(single.lengths, verdict.lengths))
        self._faults += verdict.faults
        everything = {text: each.vector for text, each in answers.alone.items() if each.vector is not None}
        self._add(judge_packed(answers, everything, floor))
        if answers.largest is not None:
            self._remarks.append(
                f"requests of more than {answers.largest} texts were rejected, so smaller ones were sent"
            )

    def _add(self, verdict: OptionVerdict) -> None:
        self._checks += verdict.checks
        self._faults += verdict.faults
        self._remarks += verdict.remarks

    def _judge_errors(self, texts: AuditTexts, answers: AuditAnswers) -> None:
        """Report the texts without a vector. A server may reject an unusual text, or one that is too long."""
        most = self._reference.model.max_tokens
        too_long = {text for tokens, text in texts.edge.items() if tokens > most}
        failed = [each for each in answers.alone.values() if each.error and not each.rejected]
        if failed:
            evidence = tuple(f"{vectors.shown(each.text)}: {each.error}" for each in failed[:3])
            self._faults.append(
                ServerFault(
                    FaultKind.FAILED, f"the server fails on {len(failed)} of {len(answers.alone)} texts", evidence
                )
            )
        rejected = [each for each in answers.alone.values() if each.rejected]
        if long_ones := [each for each in rejected if each.text in too_long]:
            self._remarks.append(f"texts of more than {most:,} tokens are rejected: {long_ones[0].error}")
        unusual = [each for each in rejected if each.text in texts.unusual]
        self._remarks += [f"{vectors.shown(each.text)} is rejected: {each.error}" for each in unusual[:3]]
        if others := [each for each in rejected if each.text not in too_long and each not in unusual]:
            evidence = tuple(f"{vectors.shown(each.text)}: {each.error}" for each in others[:3])
            message = f"the server rejects {len(others)} texts of at most {most:,} tokens, which the model reads"
            self._faults.append(ServerFault(FaultKind.REJECTED, message, evidence))
        if not texts.edge:
            self._remarks.append(f"truncation was not tried: the model reads {most:,} tokens")
