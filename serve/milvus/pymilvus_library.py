"""pymilvus, in one place: not installed is said in words, and its log is ours to write."""

from __future__ import annotations

import logging

from embedship.errors import MissingExtra

try:
    import grpc
    from pymilvus import DataType, Function, FunctionType, MilvusClient
    from pymilvus.client.types import Status
    from pymilvus.exceptions import ConnectionConfigException, MilvusException
except ImportError as error:
    raise MissingExtra("pymilvus", "milvus") from error

__all__ = [
    "ConnectionConfigException",
    "DataType",
    "Function",
    "FunctionType",
    "MilvusClient",
    "MilvusException",
    "Status",
    "grpc",
]

# They log every failure themselves, with a trace of their stack: what goes wrong is said once, by who asked.
for name in ("pymilvus", "milvus_lite"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
