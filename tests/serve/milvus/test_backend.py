"""Documents, filters and words of a collection, held against what a folder answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.serve.documents.changes import ChangeCounts, DeleteDocument, PutDocument
from embedship.serve.documents.filters import Filter, FilterError, UnknownField
from embedship.serve.documents.store import Document
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.milvus import collection_metadata as cards
from embedship.serve.milvus import expressions
from embedship.serve.milvus.backend import MilvusBackend
from embedship.serve.milvus.connection import MilvusConnection
from embedship.serve.milvus.entities import entity, row_of
from embedship.serve.search.address import Address
from embedship.serve.search.backend import SearchParams
from embedship.serve.search.fusion import SearchMode

from ..documents.test_fulltext import FILTERS, LIMITS, NUMBERS, RANGES, ROWS, SYNTAX, WHOLE
from .conftest import filled

At = Callable[[str], Address]
SECONDS = 60


def made(
    line: MilvusConnection,
    bundle: Bundle,
    at: Address,
    kind: IndexKind = IndexKind.FLAT,
    effort: SearchEffort | None = None,
) -> Address:
    cards.make(line, at.collection, cards.card(bundle, "none", kind, with_title=False, effort=effort))
    return at


def puts(encoder: Encoder, documents: list[Document]) -> list[PutDocument]:
    vectors = encoder.encode([each.text for each in documents])
    return [PutDocument(each, [each], vectors[at : at + 1]) for at, each in enumerate(documents)]


@pytest.fixture(scope="module")
def opened(bundle: Path, at: At, line: MilvusConnection, encoder: Encoder) -> Iterator[MilvusBackend]:
    """Of the documents that the filters of folders are tested with."""
    found = Bundle.open(bundle)
    with MilvusBackend.open(made(line, found, at("rows")), found, writable=True) as collection:
        collection.write(puts(encoder, ROWS))
        yield collection


@pytest.fixture
def empty(bundle: Path, at: At, line: MilvusConnection, request: pytest.FixtureRequest) -> Iterator[MilvusBackend]:
    found = Bundle.open(bundle)
    name = f"own_{abs(hash(request.node.name))}"
    with MilvusBackend.open(made(line, found, at(name)), found, writable=True) as collection:
        yield collection


def ids(collection: MilvusBackend, how: SearchParams, vectors: Any = None, k: int = 4) -> list[str]:
    (hits,) = collection.find(vectors, k, how).hits
    return [hit.document.id for hit in hits]


@pytest.mark.parametrize(("given", "rows"), FILTERS)
def test_filters_are_those_of_a_folder(
    opened: MilvusBackend, encoder: Encoder, given: dict[str, Any], rows: list[int]
) -> None:
    wanted = msgspec.convert(given, Filter)
    expected = sorted(ROWS[row].id for row in rows)
    assert sorted(ids(opened, SearchParams(filter=wanted), encoder.encode(["anything"]))) == expected
    everything = "gout aspirin insulin nothing"
    assert sorted(ids(opened, SearchParams(SearchMode.KEYWORD, [everything], wanted))) == expected
    assert (
        sorted(ids(opened, SearchParams(SearchMode.HYBRID, [everything], wanted), encoder.encode([everything])))
        == expected
    )


@pytest.mark.parametrize("name", ["colour", "none", "by", "x') --", 'a"b\\c\n'])
def test_a_field_that_no_document_has(opened: MilvusBackend, name: str) -> None:
    with pytest.raises(UnknownField, match="no document has the metadata field"):
        opened.find(None, 3, SearchParams(SearchMode.KEYWORD, ["gout"], {name: 1}))


def test_an_effort_that_the_collection_does_not_have(opened: MilvusBackend, encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="effort nprobe: this index does not have this setting"):
        opened.find(encoder.encode(["gout"]), 3, SearchParams(effort=SearchEffort(nprobe=3)))


@pytest.mark.parametrize("text", SYNTAX)
def test_nothing_of_a_text_is_syntax(opened: MilvusBackend, text: str) -> None:
    assert ids(opened, SearchParams(SearchMode.KEYWORD, [text + " gout"])) == ["a"]


def test_a_text_without_a_word_has_no_hits(opened: MilvusBackend) -> None:
    found = opened.find(None, 2, SearchParams(SearchMode.KEYWORD, ["?! --", "gout", ""]))
    assert [len(hits) for hits in found.hits] == [0, 1, 0]
    assert found.rows.shape == (3, 10)


def test_a_hybrid_hit_says_where_each_search_had_it(opened: MilvusBackend, encoder: Encoder) -> None:
    (hits,) = opened.find(encoder.encode(["gout"]), 4, SearchParams(SearchMode.HYBRID, ["gout"])).hits
    assert hits[0].document == ROWS[0]
    assert (hits[0].dense.rank, hits[0].keyword.rank) == (1, 1)  # type: ignore[union-attr]
    assert hits[0].score == pytest.approx(2 / 61)
    assert hits[0].dense.score == pytest.approx(
        float(encoder.encode(["gout"])[0] @ encoder.encode([ROWS[0].text])[0]), abs=1e-3
    )  # type: ignore[union-attr]
    assert [hit.keyword for hit in hits[1:]] == [None] * 3


def test_what_was_put_comes_back_as_it_was(opened: MilvusBackend) -> None:
    assert [opened.fetch(each.id) for each in ROWS] == ROWS
    assert opened.fetch("nobody") is None
    assert opened.resolve_ids(["a", "nobody"]) == {"a": row_of("a")}
    assert opened.changed_documents([*ROWS, Document("e", "new"), Document("a", "other")]) == [
        Document("e", "new"),
        Document("a", "other"),
    ]


HARD = [
    Document('quote"s \\ and\nlines', 'a "text"\r\n\tof \\ many', "", {'k"ey\\': 'v"\\\n', "deep": {"er": [1, 2.5]}}),
    Document("ключ", "gesündere 肝臓 🫀", "Ünï", {"großes": 2**80, "ja": True, "nichts": None, "leer": []}),
    Document("long", "x", None, {"abstract": "word " * 300, "many": list(range(20))}),
]


def test_odd_documents(empty: MilvusBackend, encoder: Encoder) -> None:
    assert empty.write(puts(encoder, HARD)) == ChangeCounts(new=3)
    assert [empty.fetch(each.id) for each in HARD] == HARD
    query = encoder.encode(["x"])
    for wanted, found in (
        ({'k"ey\\': 'v"\\\n'}, HARD[0].id),
        ({"deep.er": 2.5}, HARD[0].id),
        ({"großes": 2**80}, HARD[1].id),
        ({"ja": 1.0}, HARD[1].id),
        ({"abstract": "word " * 300}, "long"),
        ({"many": 19}, "long"),
    ):
        assert ids(empty, SearchParams(filter=msgspec.convert(wanted, Filter)), query) == [found]
    with pytest.raises(FilterError, match="more than 8 values of 'many'"):
        ids(empty, SearchParams(filter=msgspec.convert({"many": {"gt": 3}}, Filter)), query)
    with pytest.raises(FilterError, match="does not support a range on"):
        ids(empty, SearchParams(filter=msgspec.convert({'k"ey\\': {"gt": "a"}}, Filter)), query)


def test_ranges_of_whole_numbers_are_exact(empty: MilvusBackend, encoder: Encoder) -> None:
    empty.write(puts(encoder, NUMBERS))
    query = encoder.encode(["gout"])
    for sign, compare in RANGES.items():
        for limit in LIMITS:
            found = ids(empty, SearchParams(filter=msgspec.convert({"n": {sign: limit}}, Filter)), query, len(WHOLE))
            assert sorted(found) == sorted(f"n{n}" for n in WHOLE if compare(n, limit)), (sign, limit)


def test_no_two_facts_are_written_alike() -> None:
    pairs: list[dict[str, Any]] = [
        {"a": "1=2"},
        {"a=1": 2},
        {'a="b': "c"},
        {"a": 'b="c'},
        {"a": "1"},
        {"a": 1},
        {"a": "[]"},
    ]
    written = [fact for each in pairs for fact in expressions.facts(each) if not fact.endswith("=")]
    assert len(set(written)) == len(pairs)
    assert expressions.has_name("a=1") not in written


def test_put_replace_and_delete(empty: MilvusBackend, encoder: Encoder) -> None:
    assert empty.write(puts(encoder, ROWS)) == ChangeCounts(new=4)
    assert empty.size.documents == 4
    other = Document("b", "Whales are mammals", None, {"kind": "animal"})
    assert empty.write(
        [*puts(encoder, [other, Document("new", "Bats")]), DeleteDocument("a"), DeleteDocument("nobody")]
    ) == ChangeCounts(1, 1, 1)
    assert empty.size.documents == 4
    assert empty.fetch("a") is None
    assert empty.fetch("b") == other
    assert ids(empty, SearchParams(), encoder.encode(["Whales are mammals"]))[0] == "b"
    assert "b" not in ids(empty, SearchParams(SearchMode.KEYWORD, ["aspirin pains"]))
    assert "a" not in ids(empty, SearchParams(SearchMode.KEYWORD, ["gout"]))
    assert ids(empty, SearchParams(filter={"kind": "animal"}), encoder.encode(["x"])) == ["b"]
    row = empty.find(encoder.encode(["Whales are mammals"]), 1, SearchParams()).rows[0, 0]
    assert row == row_of("b")


def test_numbers_that_python_takes_for_equal_are_other_metadata(empty: MilvusBackend, encoder: Encoder) -> None:
    for value in (1, True, 1.0):
        document = Document("a", "text", None, {"n": value})
        assert empty.changed_documents([document]) == [document]
        empty.write(puts(encoder, [document]))
        assert empty.changed_documents([document]) == []
        assert repr(empty.fetch("a")) == repr(document)


def test_a_put_and_a_delete_of_one_document_is_what_came_last(empty: MilvusBackend, encoder: Encoder) -> None:
    (put,) = puts(encoder, [Document("a", "text")])
    assert empty.write([put, DeleteDocument("a")]) == ChangeCounts()
    assert empty.write([DeleteDocument("a"), put]) == ChangeCounts(new=1)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (Document("a", "é" * 40_000), "size of title and text is 80,000 bytes, and Milvus allows 65,535"),
        (Document("i" * 1025, "x"), "size of id is 1,025 bytes, and Milvus allows 1,024"),
        (Document("a", "x", None, {"m": "y" * 70_000}), "size of metadata is 70,008 bytes"),
        (Document("a", "x", None, {"m": list(range(5000))}), "size of metadata is 5,002 names and values"),
    ],
)
def test_what_milvus_cannot_keep_is_refused_whole(
    opened: MilvusBackend, encoder: Encoder, document: Document, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        opened.write(puts(encoder, [Document("fine", "fine"), document]))
    assert opened.fetch("fine") is None


def test_two_ids_of_one_hash_are_told_apart(empty: MilvusBackend, line: MilvusConnection, encoder: Encoder) -> None:
    """No two are known: here one lies in the collection under the number of another."""
    (put,) = puts(encoder, [Document("b", "text of b")])
    stranger = entity(empty.manifest, put.document, put.vectors[0]) | {"row": row_of("a")}
    line.call("upsert", empty._name, [stranger])
    assert empty.fetch("a") is None
    assert empty.resolve_ids(["a"]) == {}
    with pytest.raises(UsageError, match="the ids 'b' and 'a' have the same 63-bit hash"):
        empty.write(puts(encoder, [Document("a", "text of a")]))
    with pytest.raises(UsageError, match="the ids 'b' and 'a' have the same 63-bit hash"):
        empty.write([DeleteDocument("a")])


def test_a_collection_of_another_model(opened: MilvusBackend, stranger: Path, at: At) -> None:
    with pytest.raises(MismatchError, match=r"the index milvus://127.* was built with .*, but this bundle has model"):
        MilvusBackend.open(at("rows"), Bundle.open(stranger), writable=False)


def test_collections_that_are_none_of_ours(bundle: Path, line: MilvusConnection, at: At) -> None:
    found = Bundle.open(bundle)
    with pytest.raises(UsageError, match=r"there is no milvus://.*/none: fill it with `embedship index"):
        MilvusBackend.open(at("none"), found, writable=False)
    line.call("create_collection", "foreign", dimension=4)
    with pytest.raises(UnsafeError, match="does not name the model of its vectors"):
        MilvusBackend.open(at("foreign"), found, writable=False)
    card = cards.card(found, "none", IndexKind.FLAT, with_title=False)
    cards.make(line, "forged", msgspec.structs.replace(card, with_title=True))
    with pytest.raises(UnsafeError, match="has been changed since it was filled"):
        MilvusBackend.open(at("forged"), found, writable=False)


def test_of_equal_vectors_the_lower_rows_come_first_however_they_came(
    bundle: Path, line: MilvusConnection, texts: Any
) -> None:
    """Put from the last to the first, and more than are fetched at once."""
    card = cards.card(Bundle.open(bundle), "none", IndexKind.FLAT, with_title=False)
    index = filled(line, "equal", card, np.repeat(texts.documents[:1], 100, axis=0), slice(None, None, -1))
    for search in (index.search, index.exact):
        np.testing.assert_array_equal(search(texts.documents[:1], 5).rows, [[0, 1, 2, 3, 4]])


def test_a_kind_that_milvus_has_not(bundle: Path) -> None:
    with pytest.raises(UsageError, match="cannot be pq: give --kind flat or hnsw-sq8"):
        cards.card(Bundle.open(bundle), "none", IndexKind.PQ, with_title=False)


def test_a_graph_is_not_asked_where_few_may_be_found(
    bundle: Path, at: At, line: MilvusConnection, encoder: Encoder, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors are compared one by one then: nothing of what the filter allows is missed."""
    found = Bundle.open(bundle)
    documents = [Document(str(n), "x", None, {"rare": n % 100 == 0}) for n in range(len(texts.documents))]
    least = SearchEffort(oversample=1, ef_search=1)  # with which the graph misses many
    address = made(line, found, at("graph"), IndexKind.HNSW_SQ8, least)
    with MilvusBackend.open(address, found, writable=True) as collection:
        collection.write([PutDocument(each, [each], texts.documents[n : n + 1]) for n, each in enumerate(documents)])
        line.call("flush", "graph")
        with monkeypatch.context() as patched:
            patched.setattr(collection.index, "_search_graph", None)
            hits = collection.find(texts.queries, 10, SearchParams(filter={"rare": True}))
        rare = np.arange(0, len(documents), 100)
        scores = texts.queries @ texts.documents[rare].T
        expected = rare[np.argsort(-scores, axis=1)[:, :10]]
        got = np.array([[int(hit.document.id) for hit in each] for each in hits.hits])
        assert (got == expected).mean() > 0.99
        assert hits.nearest is None
        exact = collection.exact(texts.queries, 10)

        def recall(effort: SearchEffort | None) -> float:
            rows = collection.find(texts.queries, 10, SearchParams(effort=effort)).rows
            return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)]))

        # Asked again, for Milvus makes its graph in the background, and looks at every vector until it is there.
        end = time.monotonic() + SECONDS
        while not (misses := recall(None) < 0.97) and time.monotonic() < end:
            pass
        assert misses
        assert recall(SearchEffort(oversample=4, ef_search=256)) > 0.99
        assert collection.find(texts.queries, 10, SearchParams()).nearest is not None
