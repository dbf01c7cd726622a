"""Metadata of a collection, stored in its properties: the model and prompts of its vectors, and how it is searched.

The vector fields are named after the model. If a collection is refilled with another model while a server uses it,
Milvus itself rejects the server's searches, because their field no longer exists.
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

# Milvus' limit for a text and for JSON, in bytes; our limits for an id, in bytes, and for the facts of a document.
LONGEST = 65_535
LONGEST_ID = 1_024
MOST_FACTS = 4_096

# Index types of Milvus. Other kinds do not exist there.
_KINDS = {IndexKind.FLAT: "FLAT", IndexKind.HNSW_SQ8: "HNSW_SQ"}
_GRAPH = {"M": 32, "efConstruction": 200, "sq_type": "SQ8"}


class CollectionMetadata(ManifestRecord, frozen=True):
    """Metadata of a collection. It has the fields of an index manifest that `serve` reads."""

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
    exact: VectorCode = VectorCode.FLOAT16  # values are rounded to float16; Milvus Lite can only store them as float32
    recall: None = None
    digest: str = ""

    @property
    def vector(self) -> str:
        """Name of the vector field that is searched with the index."""
        return f"vector_{self.fingerprint[:16]}"

    @property
    def truth(self) -> str:
        """Name of the vector field that an exact search compares."""
        return self.vector if self.kind is IndexKind.FLAT else f"truth_{self.fingerprint[:16]}"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.vector, self.truth)))


def card(
    bundle: Bundle, variant: str, kind: IndexKind, with_title: bool, effort: SearchEffort | None = None
) -> CollectionMetadata:
    """Return the metadata of a new collection. Raises UsageError for a kind that Milvus does not support."""
    if kind not in _KINDS:
        raise UsageError(f"a Milvus collection cannot be {kind}: give --kind {' or '.join(_KINDS)}")
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


def read(connection: MilvusConnection, address: Address) -> CollectionMetadata:
    """Read the metadata of a collection.

    Raises UsageError if it does not exist, UnsafeError if embedship did not write it, BackendUnavailable.
    """
    if not connection.call("has_collection", address.collection):
        raise UsageError(f"there is no {address}: fill it with `embedship index BUNDLE CORPUS.jsonl --out {address}`")
    description = connection.call("describe_collection", address.collection)
    try:
        metadata = msgspec.json.decode(description["properties"][PROPERTY], type=CollectionMetadata)
    except (KeyError, msgspec.MsgspecError):
        raise UnsafeError(
            f"{address} does not name the model of its vectors: fill another collection with `embedship index`"
        ) from None
    if metadata.format != FORMAT:
        raise UsageError(
            f"{address} has format {metadata.format}, but this version reads format {FORMAT}: fill a new collection"
        )
    if sealed.seal(metadata) != metadata:
        raise UnsafeError(f"{address}: its metadata has been changed since it was filled: fill a new collection")
    return metadata


def make(connection: MilvusConnection, name: str, card: CollectionMetadata) -> None:
    """Create an empty collection, ready to be filled and searched. Raises BackendUnavailable."""
    properties = {PROPERTY: msgspec.json.encode(card).decode()}
    connection.call("create_collection", name, schema=_schema(card), index_params=_indexes(card), properties=properties)


def _schema(card: CollectionMetadata) -> Any:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("id", DataType.VARCHAR, max_length=LONGEST_ID)
    schema.add_field(
        "content", DataType.VARCHAR, max_length=LONGEST, enable_analyzer=True, analyzer_params={"tokenizer": "standard"}
    )
    schema.add_field("title_length", DataType.INT64)  # characters of the title in `content`, -1 without a title
    schema.add_field("metadata", DataType.VARCHAR, max_length=LONGEST)  # JSON text, returned exactly as it was stored
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
