"""The only module that imports pymilvus: raises MissingExtra if it is not installed, and silences its log."""

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

# They log every failure with a stack trace. We report errors ourselves, once, where the call was made.
for name in ("pymilvus", "milvus_lite"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
