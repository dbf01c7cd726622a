"""Chunks, cut with the real tokenizer, and with one of bytes, whose tokens share characters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from embedship import stdlib_docs
from embedship.bundle import Bundle
from embedship.errors import UsageError
from embedship.serve.documents.chunking import Chunking, TextSpan, find_spans, make_splitter
from embedship.serve.documents.store import Chunk, Document
from embedship.tokens import Tokenizer

EMOJI = "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 e\u0301le\u0300ve Å ﷽ "
CJK = "漢字とかなの混じった文章です。中文没有空格也能切分。한국어 문장도 있습니다."
ZALGO = "z" + "\u0301\u0323\u0334" * 90


@pytest.fixture(scope="module")
def wordpiece(bundle: Path) -> Tokenizer:
    return Tokenizer.open(Bundle.open(bundle))


@pytest.fixture(scope="module")
def lowering(bundle: Path) -> Tokenizer:
    opened = Bundle.open(bundle)
    pipeline = msgspec.structs.replace(opened.manifest.pipeline, lowercase=True)
    return Tokenizer(opened.path("tokenizer.json"), pipeline)


@pytest.fixture(scope="module")
def of_bytes(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As GPT-2 and Qwen: every byte is a token, so that most characters of this file take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({"<s>": 0, **{each: n for n, each in enumerate(alphabet, 1)}}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    made.save(str(path))
    return Tokenizer(path, Bundle.open(bundle).manifest.pipeline)


@pytest.fixture(params=["wordpiece", "lowering", "of_bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Tokenizer)
    return found


def count(tokenizer: Tokenizer, text: str, prompt: str) -> int:
    tokens = tokenizer([text], prompt)
    return tokens.lengths[0] + tokens.cut[0]


def require_right(tokenizer: Tokenizer, text: str, spans: list[TextSpan], prompt: str, chunking: Chunking) -> None:
    """Valid, in order, within the limit as the model counts, nothing left out, no more shared than allowed."""
    assert spans
    for start, end in spans:
        assert 0 <= start <= end <= len(text)
        assert count(tokenizer, text[start:end], prompt) <= chunking.tokens
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered or text[place].isspace() for place in range(len(text)))
    tokens = tokenizer.offsets([text])[0]
    assert all(place in covered for start, end in tokens for place in range(start, end) if not text[place].isspace())
    for before, after in pairwise(spans):
        assert before.start < after.start
        assert before.end < after.end
        shared = [start for start, end in tokens if end > after.start and start < before.end and end > start]
        assert len(shared) <= chunking.overlap


SCRAPS = (EMOJI, CJK, ZALGO, "word ", "İstanbul ", " \t\n ", "\u200b", "a\0b ", "x" * 130, "antidisestablish")
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [EMOJI, CJK, ZALGO, "word ", "İstanbul ", " \t\n ", "\u200b", "a\0b ", "x" * 130, "antidisestablish"]
        ),
        st.text(alphabet="e\u0301\u0308 👍🏽漢\u3000İ", max_size=40),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize("prompt", ["", "Represent this passage: "])
def test_whatever_the_text_chunks_hold_all_of_it(tokenizer: Tokenizer, prompt: str) -> None:
    fixed = count(tokenizer, "", prompt)

    @settings(max_examples=40)
    @given(TEXTS, st.integers(8, 40), st.integers(0, 20))
    @example("", 8, 4)
    @example("  \n " * 40, 8, 4)
    @example(ZALGO, 8, 4)
    @example(EMOJI * 6, 9, 4)
    @example(CJK * 3, 12, 6)
    def holds(text: str, room: int, overlap: int) -> None:
        chunking = Chunking(tokens=fixed + room, overlap=min(overlap, room // 2))
        (spans,) = find_spans([text], tokenizer, prompt, chunking)
        require_right(tokenizer, text, spans, prompt, chunking)
        if count(tokenizer, text, prompt) <= chunking.tokens:
            assert spans == [TextSpan(0, len(text))]

    holds()


def test_words_are_whole_and_exactly_the_overlap_is_shared(wordpiece: Tokenizer) -> None:
    words = [f"{a}{b}" for a, b in zip(["one", "two", "red", "sea"] * 50, " " * 200, strict=True)]
    text = "".join(words)
    (spans,) = find_spans([text], wordpiece, "", Chunking(tokens=22, overlap=5))
    assert len(spans) > 10
    pieces = [text[start:end].split() for start, end in spans]
    assert [len(piece) for piece in pieces[:-1]] == [20] * (len(pieces) - 1)
    for before, after in pairwise(pieces):
        assert before[-5:] == after[:5]
    assert pieces[0] + [word for piece in pieces[1:] for word in piece[5:]] == text.split()


def test_words_are_torn_only_where_they_are_long(wordpiece: Tokenizer) -> None:
    """Real documentation: chunks end with words of the text, and begin so if a word begins in what is shared."""
    texts = [entry.body for entry in stdlib_docs.entries(300) if len(entry.body) > 1500]
    assert texts
    for text, spans in zip(texts, find_spans(texts, wordpiece, "", Chunking(tokens=64, overlap=8)), strict=True):
        require_right(wordpiece, text, spans, "", Chunking(tokens=64, overlap=8))
        for start, end in spans:
            assert start == 0 or text[start - 1].isspace() or not set(text[start : start + 12]) & set(" \n")
            assert end == len(text) or text[end].isspace() or len(text[start:end].split()) == 1


def test_a_text_is_cut_the_same_whatever_its_neighbours(wordpiece: Tokenizer) -> None:
    texts = ["short", "word " * 300, CJK * 10, ""]
    chunking = Chunking(tokens=40, overlap=4)
    together = find_spans(texts, wordpiece, "", chunking)
    assert together == [find_spans([text], wordpiece, "", chunking)[0] for text in texts]
    assert together[0] == [TextSpan(0, 5)]
    assert together[3] == [TextSpan(0, 0)]


def test_what_goes_before_the_text_is_counted(wordpiece: Tokenizer) -> None:
    text, head = "word " * 100, "A title of some seven words, say: "
    chunking = Chunking(tokens=30, overlap=4)
    (spans,) = find_spans([text], wordpiece, "passage: ", chunking, [head])
    lengths = [count(wordpiece, head + text[start:end], "passage: ") for start, end in spans]
    assert lengths[0] == max(lengths) == 30
    with pytest.raises(UsageError, match=r"the title 'word word .* takes 43 of the 30 tokens"):
        find_spans([text], wordpiece, "passage: ", chunking, ["word " * 39])


@pytest.mark.parametrize(
    ("chunking", "sentence"),
    [
        (
            Chunking(tokens=257),
            r"--chunk is 257; this model reads at most 256 tokens, .* take 4 of them: give 12 to",
        ),
        (Chunking(tokens=11), "--chunk is 11"),
        (Chunking(tokens=100, overlap=49), "--overlap is 49; with 100 tokens per chunk it can be at most 48"),
        (Chunking(tokens=100, overlap=-1), "--overlap is -1"),
    ],
)
def test_sizes_that_cannot_be(wordpiece: Tokenizer, chunking: Chunking, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make_splitter(wordpiece, "query: ", chunking, 256)


def test_chunks_of_a_document_share_all_but_the_text(wordpiece: Tokenizer) -> None:
    document = Document("a", "word " * 30, "Title", {"year": 1999})
    ((first, second, third),) = make_splitter(wordpiece, "", Chunking(tokens=16, overlap=2), 256)([document])
    assert first == Document("a", ("word " * 14)[:-1], "Title", {"year": 1999}, Chunk(0, 0, 69))
    assert (second.chunk, third.chunk) == (Chunk(1, 60, 129), Chunk(2, 120, 149))
    ((same,),) = make_splitter(wordpiece, "", Chunking(tokens=256), 256)([document])
    assert same == msgspec.structs.replace(document, chunk=Chunk(0, 0, 150))
    titled = make_splitter(wordpiece, "", Chunking(tokens=16, overlap=2), 256, with_title=True)([document])[0]
    assert titled[0].text == ("word " * 13)[:-1], "the title takes a token of every chunk"


def test_places_of_tokens_in_lowered_text(lowering: Tokenizer) -> None:
    text = "İİ İzmir ok"
    for start, end in lowering.offsets([text])[0]:
        assert 0 <= start <= end <= len(text)
    assert text[slice(*lowering.offsets([text])[0][-1])] == "ok"
