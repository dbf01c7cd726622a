"""Command `check`: compares the vectors of a running server with those of the bundle's checkpoint.

It is an HTTP client and computes no embeddings itself. Use it in `helm test`, CronJobs and canary analysis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from embedship import terminal
from embedship.bundle import Bundle, ModelSpec, Precision
from embedship.codes import cosine
from embedship.commands.options import JsonOption
from embedship.errors import GateError, MismatchError, UsageError
from embedship.golden_texts import GoldenTexts
from embedship.serve import schemas
from embedship.serve.client import ServerClient


class CheckReport(msgspec.Struct, frozen=True):
    """Cosines between the server's vectors of the golden texts and the checkpoint's."""

    url: str
    fingerprint: str
    variant: str
    precision: str
    texts: int
    cosine_minimum: float
    cosine_mean: float


def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, such as http://127.0.0.1:8080.")],
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle that the server should serve.")],
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="API keys, one per line; the first one is sent (default: EMBEDSHIP_API_KEYS)."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=600, help="Maximum seconds per request.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Request the vectors of the golden texts from a running server, and compare them with the checkpoint's.

    Exits 3 if the vectors differ from the checkpoint's, 4 if the server serves another bundle, 1 if it does not answer.
    """
    result = _check(ServerClient(url, api_key_file, timeout), Bundle.open(bundle))
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
        return
    terminal.output().print(
        f"{url} serves {result.fingerprint[:12]} as {result.variant}: {result.texts} golden texts, cosine to the "
        f"checkpoint min {result.cosine_minimum:.5f}, mean {result.cosine_mean:.5f}",
        soft_wrap=True,
    )


def _check(client: ServerClient, bundle: Bundle) -> CheckReport:
    info = client("/info", schemas.Info)
    if info.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"{client.url} serves {info.model_id}, fingerprint {info.fingerprint[:12]}, but the bundle has fingerprint "
            f"{bundle.fingerprint[:12]}: deploy this bundle, or give the bundle that is served"
        )
    golden, options = GoldenTexts.load(bundle), _options_without_prompt(bundle.manifest.pipeline)
    texts, expected = golden.real, golden.vectors[-len(golden.real) :]
    rows = [client("/embed", list[list[float]], {"inputs": [text], **options})[0] for text in texts]
    cosines = cosine(expected, np.asarray(rows, dtype=np.float32))
    report = CheckReport(
        url=client.url,
        fingerprint=info.fingerprint,
        variant=info.variant,
        precision=info.precision,
        texts=len(texts),
        cosine_minimum=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
    )
    floors = bundle.manifest.floors[Precision(info.precision)]
    # `not >=` instead of `<`, so that NaN fails the check.
    if not (report.cosine_minimum >= floors.minimum and report.cosine_mean >= floors.mean):
        raise GateError(
            f"{client.url} answers with wrong vectors: cosine to the checkpoint is min {report.cosine_minimum:.5f}, "
            f"mean {report.cosine_mean:.5f}; the bundle requires {floors.minimum} and {floors.mean}. Take this server "
            "out of service."
        )
    return report


def _options_without_prompt(model: ModelSpec) -> dict[str, str]:
    """Return the /embed options that disable the prompt: golden vectors belong to texts without a prompt.

    Raises UsageError if the model has a default prompt and no empty prompt to select instead.
    """
    if not model.default_prompt or not model.prompts[model.default_prompt]:
        return {}
    for name, text in model.prompts.items():
        if not text:
            return {"prompt_name": name}
    raise UsageError(
        f"the model adds its prompt {model.default_prompt!r} to every text, so the golden texts cannot be checked over "
        "HTTP: run `embedship verify BUNDLE` on the machine of the server"
    )
