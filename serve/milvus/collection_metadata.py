"""What a collection says of itself, in its properties: the model and the prompts of its vectors, how it is searched.

The fields of its vectors are named after the model: a collection that somebody filled anew with another one, behind the
back of a server, is not searched but refused by Milvus itself.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from embedship.bundle import Bundle, ManifestRecord, VectorCode
from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed
from embedship.serve.index import IndexKind, manifest
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.manifest import IndexPrompts
from embedship.serve.index.recipe import DEFAULTS
from embedship.serve.milvus import expressions
from embedship.serve.milvus.connection import MilvusConnection
from embedship.serve.milvus.pymilvus_library import DataType, Function, FunctionType, MilvusClient
from embedship.serve.search.address import Address

FORMAT = 1
PROPERTY = "embedship.card"

# What Milvus keeps of a text and of a JSON, in bytes; of an id, as a collection is made here; and facts of a document.
LONGEST = 65_535
LONGEST_ID = 1_024
MOST_FACTS = 4_096

# By our names; the others have no like in Milvus.
_KINDS = {IndexKind.FLAT: "FLAT", IndexKind.HNSW_SQ8: "HNSW_SQ"}
_GRAPH = {"M": 32, "efConstruction": 200, "sq_type": "SQ8"}


class CollectionMetadata(ManifestRecord, frozen=True):
    format: int
    fingerprint: str
    variant: str
    kind: IndexKind
    effort: SearchEffort
    dimension: int
    with_title: bool
    document_prompt: str | None
    query_prompt: str | None
    prompts: IndexPrompts
    versions: dict[str, str]
    created: str
    chunking: None = None
    exact: VectorCode = VectorCode.FLOAT16  # the values; Milvus Lite keeps no other numbers than float32
    recall: None = None
    digest: str = ""

    @property
    def vector(self) -> str:
        """The field that is searched."""
        return f"vector_{self.fingerprint[:16]}"

    @property
    def truth(self) -> str:
        """The field whose every vector an exact search compares."""
        return self.vector if self.kind is IndexKind.FLAT else f"truth_{self.fingerprint[:16]}"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.vector, self.truth)))


def card(
    bundle: Bundle, variant: str, kind: IndexKind, with_title: bool, effort: SearchEffort | None = None
) -> CollectionMetadata:
    """Of a collection that is to be made. Raises UsageError for a kind that Milvus has not."""
    if kind not in _KINDS:
        raise UsageError(f"a collection in Milvus is not {kind}: give --kind {' or '.join(_KINDS)}")
    pipeline = bundle.manifest.pipeline
    return sealed.seal(
        CollectionMetadata(
            format=FORMAT,
            fingerprint=bundle.fingerprint,
            variant=variant,
            kind=kind,
            effort=DEFAULTS[kind].overridden_by(effort),
            dimension=pipeline.dimension,
            with_title=with_title,
            document_prompt=pipeline.document_prompt,
            query_prompt=pipeline.query_prompt,
            prompts=manifest.prompts(pipeline),
            versions={"embedship": version("embedship"), "pymilvus": version("pymilvus")},
            created=sealed.creation_time(),
        )
    )


def read(line: MilvusConnection, address: Address) -> CollectionMetadata:
    """Raises UsageError where there is no such collection, UnsafeError where it is not one of ours, Lost."""
    if not line.call("has_collection", address.collection):
        raise UsageError(f"there is no {address}: fill it with `embedship index BUNDLE CORPUS.jsonl --out {address}`")
    found = line.call("describe_collection", address.collection)
    try:
        read = msgspec.json.decode(found["properties"][PROPERTY], type=CollectionMetadata)
    except (KeyError, msgspec.MsgspecError):
        raise UnsafeError(
            f"{address} says of no model that its vectors are of it: fill another one with `embedship index`"
        ) from None
    if read.format != FORMAT:
        raise UsageError(f"{address} has format {read.format}, and this version reads {FORMAT}: fill it anew")
    if sealed.seal(read) != read:
        raise UnsafeError(f"{address}: what it says of itself has been changed since it was filled: fill it anew")
    return read


def make(line: MilvusConnection, name: str, card: CollectionMetadata) -> None:
    """An empty collection of this name, ready to be filled and searched. Raises Lost."""
    properties = {PROPERTY: msgspec.json.encode(card).decode()}
    line.call("create_collection", name, schema=_schema(card), index_params=_indexes(card), properties=properties)


def _schema(card: CollectionMetadata) -> Any:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("id", DataType.VARCHAR, max_length=LONGEST_ID)
    schema.add_field(
        "content", DataType.VARCHAR, max_length=LONGEST, enable_analyzer=True, analyzer_params={"tokenizer": "standard"}
    )
    schema.add_field("title_length", DataType.INT64)  # in characters of the content, -1 for none
    schema.add_field("metadata", DataType.VARCHAR, max_length=LONGEST)  # JSON, and comes back as it was, to the digit
    schema.add_field(
        "facts", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MOST_FACTS, max_length=expressions.LONGEST
    )
    schema.add_field("scalars", DataType.JSON)
    for field in card.fields:
        schema.add_field(field, DataType.FLOAT_VECTOR, dim=card.dimension)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function("bm25", FunctionType.BM25, input_field_names=["content"], output_field_names=["words"])
    )
    return schema


def _indexes(card: CollectionMetadata) -> Any:
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    for field in card.fields:
        kind = IndexKind.FLAT if field == card.truth else card.kind
        parameters = {} if kind is IndexKind.FLAT else _GRAPH
        indexes.add_index(field, index_type=_KINDS[kind], metric_type="IP", params=parameters)
    return indexes
