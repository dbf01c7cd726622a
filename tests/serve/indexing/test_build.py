from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.batches import Batch
from embedship.bundle import Bundle, Precision
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import EmbedshipError, EngineError, UsageError
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import MANIFEST, STAGE, IndexGoals, IndexPrompts, TruncatedTexts, files, read
from embedship.serve.index.recipe import RerankStore
from embedship.serve.indexing import measure
from embedship.serve.indexing.build import FLAT_BELOW, BuildResult, BuildStep, IndexOptions, build, default_kind

from ..index.conftest import Corpus, options_for


def quiet(*_: object) -> None:
    pass


def run(encoder: Encoder, lines: Path, out: Path, options: IndexOptions | None = None) -> BuildResult:
    return build(encoder, "some-variant", lines, out, options or IndexOptions(), quiet)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_files_of_a_new_index(encoder: Encoder, corpus: Corpus, tmp_path: Path, kind: IndexKind) -> None:
    out = tmp_path / "new" / "index"
    built = run(encoder, corpus(24), out, options_for(kind)).manifest
    assert {path.name for path in out.iterdir()} == {MANIFEST, *files(built.recipe)}
    assert [path.name for path in out.parent.iterdir()] == ["index"]
    assert out.stat().st_mode & 0o077 == (tmp_path / "new").stat().st_mode & 0o077
    assert built == read(out)
    assert (built.kind, built.size, built.dimension, built.variant) == (kind, 24, 384, "some-variant")
    assert built.fingerprint == encoder.bundle.fingerprint
    assert built.hot_bytes == round((out / STAGE).stat().st_size / 24, 1)
    assert kind is not IndexKind.FLAT or 768 < built.hot_bytes < 780
    codes = encoder.bundle.manifest.codes
    assert built.packing.scale == (None if kind is IndexKind.FLAT else codes.scale(384))
    assert built.packing.threshold == (codes.binary_threshold if kind is IndexKind.BINARY else None)
    assert built.recall is not None
    assert built.recall.ratio >= 0.95
    assert (built.recall.queries, built.recall.source) == (24, "documents")


def test_the_vectors_are_those_of_the_encoder(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    run(encoder, corpus(24), tmp_path / "index")
    with IndexFolder.open(tmp_path / "index", encoder.bundle) as opened:
        documents = opened.documents.fetch(range(24))
        vectors = encoder.encode([document.text for document in documents])
        hits = opened.index.search(vectors, 1)
    np.testing.assert_array_equal(hits.rows[:, 0], np.arange(24))
    np.testing.assert_allclose(hits.scores, 1, atol=2e-3)  # company in a batch moves int8 activations a little


GOOD = b'{"id": "a", "text": "one"}\n'
BAD = [
    (b'{"id": "b"}', "line 2: `text` is missing"),
    (b'{"id": "b", "text": 1}', "line 2: `text` must be a string, not an integer"),
    (b'{"id": 7, "text": "x"}', "line 2: `id` must be a string or null, not an integer"),
    (b'{"text": "x"}', "line 2: it needs a non-empty `id`"),
    (b'{"id": "", "text": "x"}', "line 2: it needs a non-empty `id`"),
    (b'{"id": "a\\u0000b", "text": "x"}', "line 2: `id` contains a NUL"),
    (b'{"_id": "a\\u0000b", "text": "x"}', "line 2: `id` contains a NUL"),
    (b'{"id": "b", "text": "x", "m": ' + b"[" * 2000 + b"]" * 2000 + b"}", "line 2: it is nested too deeply"),
    (b'{"id": "b", "text": null}', "line 2: `text` must be a string, not null"),
    (b'{"id": "b", "text": "x", "metadata": []}', "line 2: `metadata` must be an object or null, not an array"),
    (b'["b", "x"]', "line 2: the line must be an object, not an array"),
    (b'{"id": "b", "text": "x"', "line 2: the JSON object is not complete"),
    (b'{"id": "b", "text": "\xe4"}', "line 2: not UTF-8 .* at byte 21"),
    (b'{"id": "b", "text": "\\ud800"}', "line 2: the JSON object is not complete"),
    (b'\n\n{"id": "a", "text": "x"}', "line 4: the id 'a' is already used in line 1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_named_and_nothing_is_written(
    encoder: Encoder, corpus: Corpus, tmp_path: Path, line: bytes, reason: str
) -> None:
    lines = corpus(lines=GOOD + line + b"\n" + GOOD)
    with pytest.raises(UsageError, match=reason):
        run(encoder, lines, tmp_path / "index")
    assert list(tmp_path.iterdir()) == [lines]


def test_documents_without_text_are_skipped_counted_and_named(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    """As standard corpora have some. With --with-title a title is text, too."""
    rows = [{"_id": "a", "text": "one"}, {"_id": "b", "text": ""}, {"_id": "c", "text": " \n", "title": "two"}]
    many = [{"_id": f"e{n}", "text": "\t"} for n in range(20)]
    lines = corpus(lines="\n\n".join(map(json.dumps, [*rows, *many])).encode())
    built = run(encoder, lines, tmp_path / "bare")
    assert built.manifest.documents == 1
    assert built.skipped.documents == 22
    assert str(built.skipped) == "22 (b, c, e0, e1, e2, e3, e4, e5, e6, e7, ...)"
    built = run(encoder, lines, tmp_path / "titled", IndexOptions(with_title=True))
    assert (built.manifest.documents, built.skipped.documents) == (2, 21)
    with IndexFolder.open(tmp_path / "titled", encoder.bundle) as opened:
        assert [each.id for each in opened.documents.fetch(range(2))] == ["a", "c"]
        hits = opened.index.search(encoder.encode(["two"]), 1)
    assert hits.rows.tolist() == [[1]]
    assert hits.scores[0, 0] == pytest.approx(1, abs=0.02), "`two ` is what the title alone is embedded as"


def test_a_query_without_text_is_named(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "queries").write_text('{"text": "x"}\n\n{"text": " "}\n')
    with pytest.raises(UsageError, match="queries, line 3: `text` is empty"):
        run(encoder, corpus(), tmp_path / "index", IndexOptions(queries=tmp_path / "queries"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"id": "a", "text": ""}', "contains no document with text: all 1 are empty"),
        (GOOD.decode().encode("utf-16"), "not UTF-8"),
    ],
)
def test_no_corpus(encoder: Encoder, corpus: Corpus, tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"corpus\.jsonl.*{reason}"):
        run(encoder, corpus(lines=content), tmp_path / "index")


@pytest.mark.parametrize(("name", "reason"), [("none.jsonl", "No such file"), (".", "Is a directory")])
def test_an_unreadable_corpus(encoder: Encoder, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be read: {reason}"):
        run(encoder, tmp_path / name, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_lines_as_beir_writes_them(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    line = b'{"_id": "d1", "title": "", "text": "one", "metadata": {"url": "u"}, "source": "s"}'
    run(encoder, corpus(lines=line), tmp_path / "index")
    with IndexFolder.open(tmp_path / "index", encoder.bundle) as opened:
        (document,) = opened.documents.fetch([0])
        assert opened.manifest.recall is None  # one document has no neighbours
    assert (document.id, document.title, document.metadata) == ("d1", None, {"url": "u", "source": "s"})


@pytest.mark.parametrize("step", list(BuildStep))
def test_an_interrupt_changes_nothing(encoder: Encoder, corpus: Corpus, tmp_path: Path, step: BuildStep) -> None:
    lines, out = corpus(24), tmp_path / "index"
    run(encoder, lines, out)
    before = contents(tmp_path)

    def interrupt(at: BuildStep, done: int, total: int) -> None:
        if at is step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(
            encoder,
            "any",
            lines,
            out,
            IndexOptions(goals=IndexGoals(recall=0.5) if step is BuildStep.MEASURE else None),
            interrupt,
        )
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "index"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after `size` bytes of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# With 600 documents: documents.sqlite takes 188 kB, the vectors 461 kB, a graph over float32 vectors more than 922 kB.
@pytest.mark.parametrize(("size", "noticed_by"), [(50_000, "disk"), (300_000, "File too large"), (700_000, "FAISS")])
def test_a_full_disk_is_a_one_line_error(
    encoder: Encoder, corpus: Corpus, tmp_path: Path, size: int, noticed_by: str
) -> None:
    lines = corpus(lines=b"".join(b'{"id": "%d", "text": "%d %s"}\n' % (n, n, b"x" * 150) for n in range(600)))
    with largest_file(size), pytest.raises(EmbedshipError, match=f"could not be written: .*{noticed_by}") as failure:
        run(short(encoder), lines, tmp_path / "index", IndexOptions(factory="HNSW16,Flat"))
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == [lines]


class Stub:
    """An engine that answers at once: rows made from token ids, or the same constant everywhere."""

    streams = 1
    precision = Precision.FLOAT32

    def __init__(self, dimension: int = 384, constant: float | None = None) -> None:
        self.dimension = dimension
        self.constant = constant

    def encode(self, batch: Batch) -> Vectors:
        if self.constant is not None:
            return np.full((len(batch), self.dimension), self.constant, dtype=np.float32)
        seeds = batch.input_ids.sum(axis=1, keepdims=True)
        return np.sin(seeds * np.arange(1, self.dimension + 1)).astype(np.float32)

    def close(self) -> None:
        pass


def short(encoder: Encoder, engine: Stub | None = None, **changes: object) -> Encoder:
    """The same tokenizer before a stub, whose vectors have no unit length."""
    described = encoder.bundle.manifest
    pipeline = msgspec.structs.replace(described.pipeline, normalised=False, **changes)
    bundle = Bundle(encoder.bundle.folder, msgspec.structs.replace(described, pipeline=pipeline))
    return Encoder(bundle, encoder.variant, type(encoder.tokenizer).open(bundle), engine or Stub())


def test_vectors_of_any_length_become_cosines(
    encoder: Encoder, corpus: Corpus, tmp_path: Path, kind: IndexKind
) -> None:
    run(short(encoder), corpus(40), tmp_path / "index", options_for(kind))
    with IndexFolder.open(tmp_path / "index", encoder.bundle) as opened:
        text = opened.documents.fetch([3])[0].text
        query = short(encoder).encode([text])
        hits = opened.index.search(query / np.linalg.norm(query), 2)
    assert hits.rows[0, 0] == 3
    # The stub's vectors are not MiniLM's: some components lie outside the ranges that the bundle froze.
    assert hits.scores[0, 0] == pytest.approx(1, abs=2e-2)
    assert hits.scores[0, 1] < 1


@pytest.mark.parametrize("constant", [float("nan"), float("inf")])
def test_a_model_that_returns_nan(encoder: Encoder, corpus: Corpus, tmp_path: Path, constant: float) -> None:
    lines = corpus(4)
    with pytest.raises(EngineError, match="NaN or infinity"):
        run(short(encoder, Stub(constant=constant)), lines, tmp_path / "index")
    assert list(tmp_path.iterdir()) == [lines]


def test_sign_bits_need_whole_bytes(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    odd = short(encoder, Stub(dimension=20), dimension=20)
    with pytest.raises(UsageError, match="divisible by 8, not 20: use --kind flat"):
        run(odd, corpus(4), tmp_path / "index", IndexOptions(kind=IndexKind.BINARY))
    assert run(odd, corpus(4), tmp_path / "index").manifest.kind is IndexKind.FLAT


def test_the_kind_follows_the_size() -> None:
    assert default_kind(FLAT_BELOW - 1, 384) is IndexKind.FLAT
    assert default_kind(FLAT_BELOW, 384) is IndexKind.PQ
    assert default_kind(FLAT_BELOW, 22) is IndexKind.FLAT


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (IndexOptions(factory="IVF"), "factory 'IVF': FAISS .* says"),
        (IndexOptions(factory="IDMap,HNSW16"), "embedship numbers the rows.*leave IDMap out"),
        (IndexOptions(factory="HNSW16,Flat,RFlat"), "leave the refinement out"),
        (IndexOptions(factory="BHNSW16"), "use --kind binary for sign bits"),
        (IndexOptions(factory="LSH"), "IndexLSH is not supported"),
        (IndexOptions(kind=IndexKind.PQ, stage_dimension=100), "this model may be truncated to 384"),
        (
            IndexOptions(kind=IndexKind.HNSW_SQ8, effort=SearchEffort(nprobe=3)),
            "effort nprobe: .* it has: oversample, ef_search",
        ),
        (IndexOptions(kind=IndexKind.FLAT, effort=SearchEffort(oversample=3)), "it has: none, because it is exact"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_embedding(
    encoder: Encoder, corpus: Corpus, tmp_path: Path, options: IndexOptions, reason: str
) -> None:
    def never(step: BuildStep, *_: int) -> None:
        assert step is BuildStep.READ

    with pytest.raises(UsageError, match=reason):
        build(encoder, "any", corpus(4), tmp_path / "index", options, never)
    assert not (tmp_path / "index").exists()


def test_a_matryoshka_first_stage(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    cuttable = short(encoder, dimensions=(384, 96))
    options = IndexOptions(kind=IndexKind.PQ, store=RerankStore.FLOAT16, stage_dimension=96)
    built = run(cuttable, corpus(200), tmp_path / "index", options).manifest
    assert (built.recipe.factory, built.recipe.dimension, built.dimension) == ("PQ24x4fs", 96, 384)
    with IndexFolder.open(tmp_path / "index", encoder.bundle) as opened:
        query = short(encoder).encode([opened.documents.fetch([3])[0].text])
        hits = opened.index.search(query / np.linalg.norm(query), 1)
    assert (hits.rows[0, 0], hits.scores[0, 0]) == (3, pytest.approx(1, abs=1e-3))  # ranked with all dimensions


def test_truncated_texts_are_counted(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    long = b"word " * 300
    lines = corpus(lines=GOOD + b'{"id": "b", "text": "%s"}\n{"id": "c", "text": "%s"}' % (long, long + b"and more"))
    truncated = run(encoder, lines, tmp_path / "index").manifest.truncated
    # Three tokens of "one", 302 and 304 of the others, special tokens included; the model reads 256.
    assert truncated == TruncatedTexts(texts=2, tokens=46 + 48, of=3 + 302 + 304, worst=48, worst_id="c")


def test_with_title(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    lines = corpus(lines=b'{"id": "a", "title": "walrus", "text": "grey"}\n{"id": "b", "text": "blue"}')
    first = {}
    for with_title in (False, True):
        run(encoder, lines, tmp_path / "index", IndexOptions(with_title=with_title))
        with IndexFolder.open(tmp_path / "index", encoder.bundle) as opened:
            assert opened.manifest.with_title is with_title
            assert opened.documents.fetch([0])[0].text == "grey"
            first[with_title] = opened.index.search(encoder.encode(["walrus grey", "grey", "blue"]), 1).scores[:, 0]
    np.testing.assert_allclose(first[True][[0, 2]], 1, atol=2e-3)
    np.testing.assert_allclose(first[False][[1, 2]], 1, atol=2e-3)


def test_documents_and_queries_get_their_own_prompts(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    lines = corpus(lines=GOOD + b'{"id": "b", "text": "two"}')
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b'{"text": "how many"}\n')
    plain = short(encoder, prompts={"query": "query: ", "passage": "passage: "})
    built = run(plain, lines, tmp_path / "index", IndexOptions(queries=questions)).manifest
    assert (built.document_prompt, built.query_prompt) == ("passage", "query")
    assert built.prompts == IndexPrompts(document="passage: ", query="query: ")
    with IndexFolder.open(tmp_path / "index", plain.bundle) as opened:
        as_document = plain.encode(["two"], prompt_name="passage")
        hits = opened.index.search(as_document / np.linalg.norm(as_document), 1)
    assert (hits.rows[0, 0], hits.scores[0, 0]) == (1, pytest.approx(1, abs=1e-3))


def test_recall_is_measured_with_the_given_queries(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b'{"text": "read a file"}\n{"text": "sort a list"}\n')
    recall = run(encoder, corpus(24), tmp_path / "index", IndexOptions(queries=questions)).manifest.recall
    assert recall is not None
    assert (recall.k, recall.queries, recall.source, recall.ratio) == (10, 2, "questions.jsonl", 1.0)
    assert recall.low == pytest.approx(0.025**0.5)  # all of two queries: Clopper and Pearson's limit


def test_bad_queries_are_refused_before_embedding(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b'{"query": "read a file"}\n')
    with pytest.raises(UsageError, match=r"questions\.jsonl, line 1"):
        run(short(encoder, Stub(constant=float("nan"))), corpus(4), tmp_path / "index", IndexOptions(queries=questions))


def test_a_querys_own_row_does_not_count() -> None:
    rows = np.array([[5, 1, 2], [1, 6, 2], [1, 2, 3]])
    np.testing.assert_array_equal(measure._without(rows, np.array([5, 6, 7])), [[1, 2], [1, 2], [1, 2]])


def test_an_index_is_replaced(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "index"
    run(encoder, corpus(4), out, IndexOptions(kind=IndexKind.BINARY))
    with IndexFolder.open(out, encoder.bundle) as old:
        run(encoder, corpus(5), out, IndexOptions(kind=IndexKind.FLAT))
        assert len(old.documents.fetch(range(4))) == 4
    assert read(out).size == 5
    assert {path.name for path in out.iterdir()} == {MANIFEST, *files(read(out).recipe)}
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "index"}


def test_a_link_to_an_index_stays_a_link(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "index")
    run(encoder, corpus(4), link)
    run(encoder, corpus(5), link)
    assert link.is_symlink()
    assert read(tmp_path / "index").size == 5


def test_an_empty_folder_may_become_an_index(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    assert run(encoder, corpus(4), tmp_path / "index").manifest.size == 4


@pytest.mark.parametrize("what", ["file", "folder", "index and more", "torn index"])
def test_only_an_index_is_replaced(encoder: Encoder, corpus: Corpus, tmp_path: Path, what: str) -> None:
    out, lines = tmp_path / "out", corpus(4)
    if what == "file":
        out.write_text("precious")
    elif what == "folder":
        out.mkdir()
        (out / "precious").write_text("precious")
    else:
        run(encoder, lines, out)
        name = "precious" if what == "index and more" else MANIFEST
        (out / name).write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="remove it, or give another --out"):
        run(encoder, lines, out)
    assert contents(tmp_path) == before


def test_a_mount_point_is_refused(encoder: Encoder, corpus: Corpus) -> None:
    with pytest.raises(UsageError, match="/proc is a mount point"):
        run(encoder, corpus(4), Path("/proc"))


def test_a_folder_that_appears_meanwhile_is_not_replaced(encoder: Encoder, corpus: Corpus, tmp_path: Path) -> None:
    out, lines = tmp_path / "index", corpus(4)

    def meanwhile(step: BuildStep, done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "precious").write_text("precious")

    with pytest.raises(UsageError, match="remove it, or give another --out"):
        build(encoder, "any", lines, out, IndexOptions(), meanwhile)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "index"}
    assert contents(out) == {"precious": b"precious"}


def test_a_document_without_tokens_is_named(frameless: Path, corpus: Corpus, tmp_path: Path) -> None:
    """A zero-width space is no white space, and no token either."""
    lines = corpus(lines=GOOD + '{"id": "b", "text": "\u200b"}\n'.encode())
    with Encoder.open(frameless) as encoder, pytest.raises(UsageError, match="document 'b' is empty for this model"):
        run(encoder, lines, tmp_path / "index")
    assert not (tmp_path / "index").exists()
