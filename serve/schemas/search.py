"""Types of the route /search."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embedship.serve.documents.filters import Filter
from embedship.serve.documents.store import Chunk
from embedship.serve.index.effort import SearchEffort
from embedship.serve.schemas.embeddings import Strict, Usage
from embedship.serve.search.fusion import SearchMode

HITS = 10  # hits per query, if a request does not say how many
TOP = 50  # documents to re-rank, if a request does not say how many


class Rerank(Strict, frozen=True):
    """Find `top` documents, and re-rank them with the re-ranker."""

    top: Annotated[int, Meta(ge=1)] | None = TOP


class SearchRequest(Strict, frozen=True):
    """POST /search: finds the `k` best hits for one query or several.

    `filter` contains conditions on metadata: {"kind": "drug", "year": {"gte": 2000}, "tag": {"in": ["a", "b"]}}.

    `effort` trades speed for recall in this search, if the index has such a parameter. In an index of chunks, a hit is
    the best chunk of a document; with `per_document` false, several chunks of a document can be hits.
    """

    query: str | list[str]
    k: Annotated[int, Meta(ge=1)] | None = HITS
    mode: SearchMode | None = SearchMode.DENSE
    filter: Filter | None = None
    effort: SearchEffort | None = None
    per_document: bool | None = True
    rerank: Rerank | None = None


class Place(msgspec.Struct, frozen=True):
    """Rank (from 1) and score of a hit in one of the two searches."""

    rank: int
    score: float


class SearchHit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document and its score. `title` and `metadata` are present if the document has them.

    In an index of chunks, `text` is the text of a chunk, and `chunk` gives its position: characters `start` to `end` of
    the document.

    The score is the cosine to the query in mode dense, BM25 in mode keyword, and in mode hybrid the sum of
    1 / (60 + rank) over `dense` and `keyword`; each of them is present if that search ranked the document high enough.
    In a re-ranked search, the score is the re-ranker's, between 0 and 1; `retrieved` gives the rank and score of the
    document before re-ranking.
    """

    id: str
    score: float
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    chunk: Chunk | UnsetType = UNSET
    dense: Place | UnsetType = UNSET
    keyword: Place | UnsetType = UNSET
    retrieved: Place | UnsetType = UNSET


class SearchResult(msgspec.Struct, frozen=True):
    """Hits of one query, best first."""

    hits: list[SearchHit]


class SearchReply(msgspec.Struct, frozen=True):
    """One result per query, in the order of the queries. `usage` includes the tokens of re-ranked pairs."""

    results: list[SearchResult]
    usage: Usage
