from __future__ import annotations

from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.serve.search.address import Address, parse_location


@pytest.mark.parametrize(
    ("text", "uri", "collection"),
    [
        ("milvus://db.example:19531/faq", "http://db.example:19531", "faq"),
        ("milvus://db.example/faq_2", "http://db.example:19530", "faq_2"),
        ("milvus://[::1]:19530/faq", "http://[::1]:19530", "faq"),
        ("milvus+tls://db.example/faq", "https://db.example:19530", "faq"),
        ("milvus:///data/all.db/faq", "/data/all.db", "faq"),
        ("milvus:data/all.db/faq", "data/all.db", "faq"),
    ],
)
def test_a_server_and_a_file(text: str, uri: str, collection: str) -> None:
    found = parse_location(text)
    assert found == Address(uri, collection)
    assert isinstance(found, Address)
    assert found.local is uri.endswith(".db")
    assert parse_location(str(found)) == found


def test_a_folder_is_a_path() -> None:
    assert parse_location("some/index") == Path("some/index")


@pytest.mark.parametrize(
    "text",
    [
        "milvus://",
        "milvus://db.example",
        "milvus://db.example:port/faq",
        "milvus://db.example/a/b",
        "milvus://db.example/1a",
        "milvus:///data/all/faq",
        "milvus:/db.example:19530/a b",
        "milvus:faq.db",
    ],
)
def test_the_error_for_an_invalid_address_shows_the_format(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a valid address of a collection: write milvus://HOST:PORT/COLLECTION"):
        parse_location(text)


def test_an_address_must_not_contain_a_secret() -> None:
    with pytest.raises(UsageError, match="must not contain a user, password, query or fragment") as caught:
        parse_location("milvus://me:sesame@db.example/faq")  # pragma: allowlist secret
    assert "sesame" not in str(caught.value)
