"""What tests of building and converting an index share with those of the index itself."""

from __future__ import annotations

from ..index.conftest import clustered, corpus, encoder, entries, kind, made, make, texts  # noqa: F401 - fixtures
