"""Files that let sentence-transformers open a bundle: its folder layout, without pickles and without weights."""

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
# The weights of a Dense layer (a few kilobytes) are also in the graphs, but other tools need the file to open a folder.
_MODULE = ("config.json", "*.safetensors")


def copy(
    source: SentenceTransformersFolder, target: Path, tokenizer_json: str, truncate_dim: int | None = None
) -> None:
    """Copy the files that describe the model, and write the frozen tokenizer instead of the original one.

    `truncate_dim`: the dimension that the user gave; None keeps the checkpoint's own.
    """
    _copy(source, source.path, target, _ROOT)
    if truncate_dim:
        settings = json.dumps(source.settings | {"truncate_dim": truncate_dim}, indent=2)
        (target / "config_sentence_transformers.json").write_text(settings, encoding="utf-8")
    if (target / "modules.json").is_file():  # missing in some cross-encoders
        _name_modules(target / "modules.json")
    _copy(source, source.transformer, target, _TRANSFORMER)
    for module in source.modules[1:]:
        _copy(source, module.folder, target, _MODULE)
    inner = target / source.transformer.relative_to(source.path)
    for folder in {target, inner}:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")


def _name_modules(listing: Path) -> None:
    """Rewrite module names to those that every sentence-transformers from 2.x to 6.x knows.

    5.7 does not find the name that 6.x saves for Normalize (base.modules.normalize). 2.x knows neither the names that
    5.7 saves nor those that 6.x saves.
    """
    rows = json.loads(listing.read_text(encoding="utf-8"))
    named = [row | {"type": f"sentence_transformers.models.{row['type'].rpartition('.')[2]}"} for row in rows]
    listing.write_text(json.dumps(named, indent=2), encoding="utf-8")


def _copy(source: SentenceTransformersFolder, folder: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for path in (p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()):
        copied = target / path.relative_to(source.path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)  # follows the links of a hub cache, and does not copy modes
