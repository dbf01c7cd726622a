"""The files that let sentence-transformers open a bundle as well: its layout, without pickles and without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from embedship.bundle import TOKENIZER
from embedship.export.checkpoint.folder import SentenceTransformersFolder

_ROOT = ("modules.json", "config_sentence_transformers.json")
_TRANSFORMER = (
    "config.json",
    "sentence_*_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
# A Dense layer of a few kilobytes is in the graphs too; others need it beside them to open the folder.
_MODULE = ("config.json", "*.safetensors")


def copy(source: SentenceTransformersFolder, target: Path, tokenizer_json: str) -> None:
    """Copy what describes the model, and write the frozen tokenizer in place of the original."""
    _copy(source, source.path, target, _ROOT)
    if (target / "modules.json").is_file():  # a cross-encoder may have none
        _name_modules(target / "modules.json")
    _copy(source, source.transformer, target, _TRANSFORMER)
    for module in source.modules[1:]:
        _copy(source, module.folder, target, _MODULE)
    inner = target / source.transformer.relative_to(source.path)
    for folder in {target, inner}:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")


def _name_modules(listing: Path) -> None:
    """By the names that every sentence-transformers from 2.x to 6.x has.

    5.7 does not find the Normalize that 6.x saves (base.modules.normalize), nor 2.x what either of them saves.
    """
    rows = json.loads(listing.read_text(encoding="utf-8"))
    named = [row | {"type": f"sentence_transformers.models.{row['type'].rpartition('.')[2]}"} for row in rows]
    listing.write_text(json.dumps(named, indent=2), encoding="utf-8")


def _copy(source: SentenceTransformersFolder, folder: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for path in (p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()):
        copied = target / path.relative_to(source.path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)  # follows the links of a hub cache, and takes no modes along
