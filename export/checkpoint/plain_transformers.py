"""A plain transformers folder, made into a sentence-transformers one: links to its files, and a pooling beside them."""

from __future__ import annotations

import json
from pathlib import Path

from embedship.errors import UsageError

# Names as every version of sentence-transformers reads them, 2.x to 6.x.
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens",
          "lasttoken": "pooling_mode_lasttoken"}  # fmt: skip
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")


def symlink_tree(source: Path, target: Path) -> None:
    """Recreate the folders of `source` below `target`, with a link for each file; hidden ones are left out."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(path.resolve())
    target.mkdir(parents=True, exist_ok=True)


def pool(folder: Path, mode: str, normalize: bool) -> None:
    """Write modules.json and its Pooling (and Normalize) into a folder of links.

    Raises UsageError for a mode there is none of, or a config.json that does not tell the width of the model.
    """
    if mode not in _MODES:
        raise UsageError(f"there is no pooling {mode!r}; there are: {', '.join(_MODES)}")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if normalize else {})
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {flag: name == mode for name, flag in _MODES.items()}
    _write(folder / "modules.json", rows)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": _width(folder), **modes})
    if not (settings := folder / "sentence_bert_config.json").is_file():
        _write(settings, {"do_lower_case": False})


def refuse_unused(folder: Path, pooling: str | None, normalize: bool) -> None:
    """Raises UsageError where an option would be ignored: a model that pools as it was not told to is a surprise."""
    if pooling or normalize:
        why = "has a modules.json, which says how it pools" if pooling else "gets --normalize only with --pooling"
        raise UsageError(f"{folder} {why}: leave {'--pooling' if pooling else '--normalize'} out")


def _width(folder: Path) -> int:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return next(int(config[key]) for key in _WIDTHS if key in config)
    except (OSError, ValueError, StopIteration) as error:
        raise UsageError(f"{path} does not say how wide the model is ({', '.join(_WIDTHS)})") from error


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # a link to the checkpoint's own file, or to the hub's blob, would be written through
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
