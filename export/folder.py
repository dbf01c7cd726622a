"""A sentence-transformers folder (2.x to 6.x), read as plain JSON: what is unsafe or unknown is refused unloaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from embedship.errors import UnsafeError, UsageError

# Dropout does nothing at inference.
KNOWN = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_WEIGHED = {"Transformer", "Dense", "LayerNorm"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TRANSFORMER_CONFIGS = ("sentence_bert_config.json", "sentence_*_config.json")


@dataclass(frozen=True, slots=True)
class Module:
    kind: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        return _read(path) if path.is_file() else {}


@dataclass(frozen=True, slots=True)
class Folder:
    """The modules of a checkpoint, in the order they run; the first is the transformer."""

    path: Path
    modules: tuple[Module, ...]

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Raises UsageError for what is no checkpoint or not supported, UnsafeError for pickles and foreign code."""
        path = Path(path)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder: give the folder that SentenceTransformer.save_pretrained wrote")
        folder = cls(path, _modules(path))
        _refuse_adapters(folder)
        _refuse_foreign_code(folder)
        _refuse_newer(folder)
        for module in folder.modules:
            _refuse_pickles(module)
            _refuse_foreign_activation(module)
        return folder

    @property
    def transformer(self) -> Path:
        return self.modules[0].folder

    @property
    def settings(self) -> dict[str, Any]:
        """config_sentence_transformers.json: prompts, similarity, the versions it was saved with."""
        path = self.path / "config_sentence_transformers.json"
        return _read(path) if path.is_file() else {}

    @property
    def lowercase(self) -> bool:
        for pattern in _TRANSFORMER_CONFIGS:
            for path in sorted(self.transformer.glob(pattern)):
                return bool(_read(path).get("do_lower_case", False))
        return False

    def matryoshka(self, dimension: int) -> tuple[int, ...]:
        """The dimensions the model card says it was trained for, largest first; (dimension,) if it says nothing.

        sentence-transformers writes the parameters of MatryoshkaLoss into README.md and nowhere else.
        """
        card = self.path / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        found = re.search(r'"matryoshka_dims":\s*\[([\d\s,]+)\]', text)
        dims = {int(n) for n in re.findall(r"\d+", found[1])} if found else set()
        return tuple(sorted({d for d in dims if 0 < d < dimension} | {dimension}, reverse=True))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object")
    return content


def _modules(path: Path) -> tuple[Module, ...]:
    listing = path / "modules.json"
    if not listing.is_file():
        raise UsageError(
            f"{path} has no modules.json, so nothing says how its vectors are pooled: open it with "
            "SentenceTransformer(...) and save it with save_pretrained"
        )
    try:
        rows = json.loads(listing.read_text(encoding="utf-8"))
        modules = tuple(_module(path, str(row["type"]), str(row["path"])) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{listing} is damaged: {error!r}") from None
    if [m.kind for m in modules[:2]] != ["Transformer", "Pooling"]:
        kinds = ", ".join(m.kind for m in modules) or "nothing"
        raise UsageError(f"{listing} lists {kinds}; a Transformer followed by a Pooling is what can be exported")
    if not (modules[0].folder / "config.json").is_file():
        raise UsageError(f"{modules[0].folder} has no config.json: this is not a complete checkpoint")
    return modules


def _module(root: Path, kind: str, path: str) -> Module:
    if not kind.startswith("sentence_transformers."):
        raise UnsafeError(f"{root} runs code of its own ({kind}): only sentence-transformers' own modules are exported")
    name = kind.rpartition(".")[2]
    if name not in KNOWN:
        raise UsageError(f"{root} has a {name} module; only {', '.join(KNOWN)} can be exported")
    folder = root / path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UnsafeError(f"{root}/modules.json leads outside the folder: {path}")
    return Module(name, folder)


def _refuse_adapters(folder: Folder) -> None:
    if (folder.transformer / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder.path} holds a PEFT adapter, not a whole model: merge it first (model[0].auto_model = "
            "model[0].auto_model.merge_and_unload(), then save_pretrained) and export the result"
        )


def _refuse_foreign_code(folder: Folder) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = folder.transformer / name
        if path.is_file() and "auto_map" in _read(path):
            raise UnsafeError(
                f"{path} asks for remote code (auto_map): code that comes with a model is never run here; "
                "use a model that transformers itself implements"
            )


def _refuse_foreign_activation(module: Module) -> None:
    """sentence-transformers puts Tanh in its place and goes on."""
    activation = str(module.config.get("activation_function", "torch."))
    if module.kind == "Dense" and not activation.startswith("torch."):
        raise UnsafeError(f"{module.folder} uses code of its own ({activation}): only activations of torch are run")


def _refuse_newer(folder: Folder) -> None:
    saved = {
        "transformers": folder.modules[0].config.get("transformers_version"),
        "sentence-transformers": folder.settings.get("__version__", {}).get("sentence_transformers"),
    }
    for package, theirs in saved.items():
        ours = version(package)
        if theirs and _major(str(theirs)) > _major(ours):
            # transformers 4.57 opens a Qwen3 checkpoint of 5.x with another rope_theta, without a word.
            raise UsageError(
                f"{folder.path} was saved by {package} {theirs}, and {ours} is installed: an older major version can "
                f"read it wrongly in silence. pip install '{package}>={_major(str(theirs))}'"
            )


def _major(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0


def _refuse_pickles(module: Module) -> None:
    if module.kind not in _WEIGHED or any(module.folder.glob("*.safetensors")):
        return
    pickles = [path.name for path in sorted(module.folder.glob("*")) if path.suffix in _PICKLES]
    if pickles:
        raise UnsafeError(
            f"{module.folder} has its weights only as a pickle ({pickles[0]}), and a pickle can run code when it is "
            "opened: convert it where you trust it, SentenceTransformer(folder).save_pretrained(new_folder)"
        )
    raise UsageError(f"{module.folder} has no weights (*.safetensors): this is not a complete checkpoint")
