"""Real texts to search with held-out queries; embedded once and kept in .bench.

medquad      sentences of MedQuAD's answers; its 1,000 questions are the queries
wordnet      definitions and examples of WordNet 3.0; 500 of the examples are the queries and not documents
docstrings   paragraphs of the standard library's documentation; 500 summary lines are the queries and not documents
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from embedship import stdlib_docs
from embedship.codes import Vectors
from embedship.encoder import Encoder

ROOT = Path(__file__).parents[1]
MEDQUAD = ROOT.parent / "shared" / "data" / "medquad"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_EXAMPLE = re.compile(r'"([^"]+)"')
_SHORTEST = 20
_ASK = 500


class Texts(NamedTuple):
    documents: list[str]
    queries: list[str]


class Embedded(NamedTuple):
    """Float32 rows with float16 values, the same for every index, so that the exact result is the same for all."""

    documents: Vectors
    queries: Vectors


def medquad() -> Texts:
    answers = (json.loads(line)["text"] for line in _lines(MEDQUAD / "corpus.jsonl"))
    questions = [json.loads(line)["text"] for line in _lines(MEDQUAD / "queries.jsonl")]
    return Texts(_distinct(sentence for text in answers for sentence in _SENTENCE.split(text)), questions)


def wordnet() -> Texts:
    fetch = [sys.executable, str(ROOT / "tools" / "fetch.py"), "wordnet"]
    folder = Path(subprocess.run(fetch, capture_output=True, text=True, check=True).stdout.strip())
    glosses = [
        line.split("| ", 1)[1]
        for name in ("noun", "verb", "adj", "adv")
        for line in _lines(folder / f"data.{name}")
        if "| " in line
    ]
    examples = _distinct(example for gloss in glosses for example in _EXAMPLE.findall(gloss))
    asked = set(examples[:: len(examples) // _ASK][:_ASK])
    definitions = (_EXAMPLE.sub("", gloss).strip(" ;") for gloss in glosses)
    return Texts([text for text in _distinct([*definitions, *examples]) if text not in asked], sorted(asked))


def docstrings() -> Texts:
    entries = stdlib_docs.entries()
    paragraphs = _distinct(part for entry in entries for part in entry.body.split("\n\n"))
    summaries = _distinct(entry.summary for entry in entries)
    asked = summaries[:: len(summaries) // _ASK][:_ASK]
    return Texts([text for text in paragraphs if text not in set(asked)], asked)


SOURCES: dict[str, Callable[[], Texts]] = {"medquad": medquad, "wordnet": wordnet, "docstrings": docstrings}


def available() -> list[str]:
    """Return the available sources. MedQuAD is only next to some checkouts."""
    return [name for name in SOURCES if name != "medquad" or MEDQUAD.is_dir()]


def embedded(name: str, encoder: Encoder, work: Path) -> Embedded:
    texts = SOURCES[name]()
    made = f"search-{name}-{encoder.bundle.fingerprint[:12]}"
    return Embedded(
        _cached(work / f"{made}-{len(texts.documents)}.npy", encoder, texts.documents),
        _cached(work / f"{made}-{len(texts.queries)}-queries.npy", encoder, texts.queries),
    )


def _cached(path: Path, encoder: Encoder, texts: list[str]) -> Vectors:
    if not path.exists():
        vectors = np.empty((len(texts), encoder.bundle.manifest.pipeline.dimension), np.float16)
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(f"embedding {path.stem}", total=len(texts))
            for start in range(0, len(texts), 8192):
                some = texts[start : start + 8192]
                vectors[start : start + len(some)] = encoder.encode(some)
                bar.advance(task, len(some))
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, vectors)
        partial.rename(path)
    return np.load(path).astype(np.float32)


def _distinct(texts: Iterable[str]) -> list[str]:
    """Return unique texts with collapsed white space, in order."""
    tidy = (" ".join(text.split()) for text in texts)
    return list(dict.fromkeys(text for text in tidy if len(text) >= _SHORTEST))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file
