"""Guides of the commands: examples for `--help`, what to run next, and how to continue after Ctrl-C.

In `next_steps`, {name} stands for the value of a parameter. If it has no value, the name is printed in capitals.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class CommandGuide:
    """Examples of one command, the commands that usually follow it, and the message after Ctrl-C."""

    examples: tuple[str, ...]
    next_steps: tuple[str, ...] = ()
    interrupted: str = "Nothing was written. Run the same command again."


_CONTINUE = "Run the same command again to continue: what is finished was kept."
_NO_TRACE = "Run the same command again."

_AFTER_EXPORT = (
    "embedship serve {out}",
    "embedship index {out} CORPUS.jsonl --out INDEX",
)
_AFTER_RERANK_EXPORT = ("embedship serve BUNDLE --index INDEX --reranker {out}",)

GUIDES = {
    "demo": CommandGuide(
        examples=("embedship demo", "embedship demo --once"),
        interrupted="Run the same command again: finished steps are reused.",
    ),
    "export": CommandGuide(
        examples=(
            "embedship export ./checkpoint --out bundle",
            "embedship export ./checkpoint --out bundle --texts texts.jsonl --queries queries.jsonl --eval beir",
            "embedship export ./cross-encoder --out reranker --task rerank",
            "embedship export ./lora --base ./base-model --out bundle",
        ),
        next_steps=_AFTER_EXPORT,
        interrupted="No bundle was written. Run the same command again.",
    ),
    "verify": CommandGuide(
        examples=("embedship verify bundle", "embedship verify bundle --all --key public.pem"),
        next_steps=("embedship serve {bundle}",),
        interrupted=_NO_TRACE,
    ),
    "tune": CommandGuide(
        examples=("embedship tune bundle", "embedship tune bundle --objective latency --texts texts.jsonl"),
        next_steps=("embedship serve {bundle}",),
        interrupted="The choice was not changed. Run the same command again.",
    ),
    "evaluate": CommandGuide(
        examples=(
            "embedship evaluate bundle beir",
            "embedship evaluate bundle beir --dimensions 768,256 --codes float32,int8",
        ),
        next_steps=("embedship index {bundle} CORPUS.jsonl --out INDEX",),
        interrupted=_NO_TRACE,
    ),
    "sign": CommandGuide(
        examples=("embedship sign bundle --key private.pem",),
        next_steps=("embedship verify {bundle} --key PUBLIC.pem", "embedship push {bundle} oci://HOST/REPOSITORY:TAG"),
        interrupted="The bundle was not signed. Run the same command again.",
    ),
    "push": CommandGuide(
        examples=("embedship push bundle oci://registry.example.com/models/minilm:1",),
        next_steps=("embedship pull {to} --out BUNDLE",),
        interrupted="Run the same command again to continue: files that the registry has are not sent again.",
    ),
    "pull": CommandGuide(
        examples=(
            "embedship pull oci://registry.example.com/models/minilm:1 --out bundle --key public.pem",
            "embedship pull s3://models/minilm --out bundle",
        ),
        next_steps=("embedship serve {out}",),
        interrupted=_CONTINUE,
    ),
    "encode": CommandGuide(
        examples=(
            "embedship encode bundle texts.jsonl --out vectors",
            "embedship encode bundle texts.parquet --out vectors --format parquet --code int8",
        ),
        interrupted=_CONTINUE,
    ),
    "index": CommandGuide(
        examples=(
            "embedship index bundle corpus.jsonl --out index",
            "embedship index bundle corpus.jsonl --out index --chunk 256 --overlap 32",
            "embedship index bundle corpus.jsonl --out index --recall 0.99 --memory 500MB --report recall.html",
        ),
        next_steps=("embedship serve {bundle} --index {out}",),
        interrupted="No index was written, and an index that was in --out is unchanged. Run the same command again.",
    ),
    "index update": CommandGuide(
        examples=("embedship index update index changes.jsonl --bundle bundle",),
        next_steps=("embedship serve {bundle} --index {index}",),
        interrupted="Changes up to the last finished batch were kept. Run the same command again to apply the others.",
    ),
    "index migrate": CommandGuide(
        examples=("embedship index migrate index new-bundle --out new-index",),
        next_steps=(
            "embedship compare OLD_BUNDLE {bundle} QUERIES.jsonl --other-model --index {index} --new-index {out}",
            "embedship serve {bundle} --index {out}",
        ),
        interrupted=_CONTINUE,
    ),
    "index sign": CommandGuide(
        examples=("embedship index sign index --key private.pem",),
        next_steps=("embedship serve BUNDLE --index {index} --key PUBLIC.pem",),
        interrupted="The index was not signed. Run the same command again.",
    ),
    "index verify": CommandGuide(
        examples=("embedship index verify index --key public.pem",),
        interrupted=_NO_TRACE,
    ),
    "serve": CommandGuide(
        examples=(
            "embedship serve bundle",
            "embedship serve bundle --index index --port 8080",
            "embedship serve bundle --index index --reranker reranker --writable --write-key-file keys.txt",
            "embedship serve bundle --index index --key public.pem",
        ),
    ),
    "check": CommandGuide(
        examples=("embedship check http://127.0.0.1:8080 --bundle bundle",),
        interrupted=_NO_TRACE,
    ),
    "audit": CommandGuide(
        examples=(
            "embedship audit http://127.0.0.1:8080 --bundle bundle",
            "embedship audit https://embeddings.example.com/v1 --checkpoint ./checkpoint --model my-model --json",
            "embedship audit http://127.0.0.1:11434 --bundle bundle --api ollama",
        ),
        interrupted=_NO_TRACE,
    ),
    "compare": CommandGuide(
        examples=(
            "embedship compare old-bundle new-bundle queries.jsonl --index index --report compare.html",
            "embedship compare old-bundle new-bundle queries.jsonl --other-model --corpus corpus.jsonl",
        ),
        next_steps=("embedship serve {new}",),
        interrupted=_NO_TRACE,
    ),
    "reference": CommandGuide(
        examples=("embedship reference bundle queries.jsonl",),
        next_steps=("embedship serve {bundle}",),
        interrupted="No reference was written. Run the same command again.",
    ),
    "drift": CommandGuide(
        examples=("embedship drift bundle.reference.safetensors log.jsonl --bundle bundle --report drift.html",),
        interrupted=_NO_TRACE,
    ),
    "monitor init": CommandGuide(
        examples=("embedship monitor init --out monitoring", "embedship monitor init --out monitoring --warn ticket")
    ),
    "monitor export": CommandGuide(
        examples=("embedship monitor export --bundle bundle --index index --state-dir state --out triplets.jsonl",)
    ),
    "backup": CommandGuide(
        examples=("embedship backup index index.live state --to backups --keep 7",),
        next_steps=("embedship restore {to}/BACKUP --out FOLDER",),
        interrupted="No backup was written, and older ones were kept. Run the same command again.",
    ),
    "restore": CommandGuide(
        examples=("embedship restore backups/20260101T024100Z --folder index --out index",),
        next_steps=("embedship serve BUNDLE --index {out}",),
    ),
}


def next_steps(name: str, values: Mapping[str, Any]) -> list[str]:
    """Return the commands that usually follow the command `name`. `values`: the parameters with which it was run."""
    steps = GUIDES[name].next_steps
    if name == "export" and values.get("dry_run"):
        return ["the same command without --dry-run writes the bundle"]
    if name == "export" and str(values.get("task")) == "rerank":
        steps = _AFTER_RERANK_EXPORT
    return [step.format_map(_ShellValues(values)) for step in steps]


class _ShellValues(dict[str, str]):
    """Values of parameters, quoted for a shell."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({name: _quoted(value) for name, value in values.items() if value is not None})

    def __missing__(self, name: str) -> str:
        return name.upper()


def _quoted(value: Any) -> str:
    return shlex.quote(str(value.value if isinstance(value, Enum) else value))
