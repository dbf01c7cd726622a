"""Turns a plain transformers folder into a sentence-transformers one: links to its files, and a pooling module."""

from __future__ import annotations

import json
from pathlib import Path

from embedship.errors import UsageError

# Module names that every version of sentence-transformers reads, 2.x to 6.x.
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens",
          "lasttoken": "pooling_mode_lasttoken"}  # fmt: skip
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")


def symlink_tree(source: Path, target: Path) -> None:
    """Recreate the folders of `source` below `target` with a link per file. Hidden files are left out."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(path.resolve())
    target.mkdir(parents=True, exist_ok=True)


def pool(folder: Path, mode: str, normalize: bool) -> None:
    """Write modules.json with a Pooling (and Normalize) module into a folder of links.

    Raises UsageError for an unknown mode, or if config.json does not state the model's width.
    """
    if mode not in _MODES:
        raise UsageError(f"--pooling {mode!r} is unknown: use one of {', '.join(_MODES)}")
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
    """Raise UsageError if --pooling or --normalize would be ignored, because the folder has its own pooling."""
    if pooling or normalize:
        reason = "has a modules.json, which says how it pools" if pooling else "uses --normalize only with --pooling"
        raise UsageError(f"{folder} {reason}: leave {'--pooling' if pooling else '--normalize'} out")


def _width(folder: Path) -> int:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return next(int(config[key]) for key in _WIDTHS if key in config)
    except (OSError, ValueError, StopIteration) as error:
        raise UsageError(
            f"{path} does not say how wide the model is: it needs one of the keys {', '.join(_WIDTHS)}"
        ) from error


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # writing through a link would change the checkpoint or the hub's cache
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
