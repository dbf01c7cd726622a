from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedship.bundle import TOKENIZER
from embedship.errors import UnsafeError
from embedship.tokens import Tokenizer

from .bundle.test_bundle import PIPELINE


def test_a_panic_of_the_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    """Rust gives this regular expression up after many steps. Its panic is no Exception and would end a thread."""
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    }
    (tmp_path / TOKENIZER).write_text(json.dumps(content))
    tokenizer = Tokenizer(tmp_path / TOKENIZER, PIPELINE)
    assert tokenizer(["short"]).lengths == [1]
    for call in (tokenizer, tokenizer.tokenize):
        with pytest.raises(UnsafeError, match=r"tokenizer\.json fails on this text"):
            call(["x" * 40])
