"""SentenceTransformersFolder: a folder of sentence-transformers 2.x to 6.x, read as plain JSON and checked first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from embedship.bundle import AdapterMerge
from embedship.errors import UnsafeError, UsageError
from embedship.export.checkpoint import trust

STATIC = "StaticEmbedding"
# Dropout has no effect at inference.
KNOWN = ("Transformer", STATIC, "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_WITH_WEIGHTS = {"Transformer", STATIC, "Dense", "LayerNorm"}
# Files of a classifier that SetFit saves next to the model. No vector depends on them.
_HEADS = ("model_head.pkl", "model_head.joblib")
_CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json")
_TRANSFORMER_CONFIGS = ("sentence_bert_config.json", "sentence_*_config.json")


@dataclass(frozen=True, slots=True)
class PipelineModule:
    kind: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        return read(path) if path.is_file() else {}


@dataclass(frozen=True, slots=True)
class CheckpointOrigin:
    """The name and source of a checkpoint. The folder does not always state them."""

    name: str
    revision: str | None = None  # commit on a model hub
    merge: AdapterMerge | None = None


# Folder names that do not describe the model.
_WORDS = "model|checkpoint|ckpt|output|final|best|last|latest|merged|saved|trained|export|epoch|step|run"
_GENERIC = re.compile(rf"(({_WORDS})(s|ed)?[-_.]?(\d+[-_.]?)?)+", re.IGNORECASE)
# A model's name, with or without its organisation. A title of several words is not a name.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CARD = re.compile(r"\A\s*---\n(.*?)\n---\n(.*)", re.DOTALL)  # YAML front matter, and the text below it


def model_name(path: Path) -> str:
    """Return the folder's name, or the name in the model card if the folder's name is generic, such as `model`.

    The card's name is `model_name:` in the YAML of README.md, or its first title if that is a name.
    """
    folder, card = path.resolve().name, path / "README.md"
    if not _GENERIC.fullmatch(folder) or not card.is_file():
        return folder
    text = card.read_text(encoding="utf-8", errors="replace")
    head, page = match.groups() if (match := _CARD.match(text)) else ("", text)
    card_name = re.search(r"^model_name:(.*)$", head, re.MULTILINE)
    title = re.search(r"^# (.*)$", page, re.MULTILINE)
    names = [found[1].strip(" \t\r\"'") for found in (card_name, title) if found]
    return next((name for name in names if _NAME.fullmatch(name) and not _GENERIC.fullmatch(name)), folder)


@dataclass(frozen=True, slots=True)
class SentenceTransformersFolder:
    """The modules of a checkpoint in the order they run. The first one is the transformer, or a StaticEmbedding.

    `code` is the sha256 of the model's own code that may run; None if the model has no such code.
    """

    path: Path
    modules: tuple[PipelineModule, ...]
    origin: CheckpointOrigin
    code: str | None = None

    @classmethod
    def open(cls, path: Path | str, origin: CheckpointOrigin | None = None, code: str | None = None) -> Self:
        """Read and check a folder. `code` is the hash of the model's code that the user trusts.

        Raises UsageError if it is not a checkpoint or not supported, UnsafeError for pickles and unknown code.
        """
        path = Path(path)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder: name the folder that SentenceTransformer.save_pretrained wrote")
        origin = origin or CheckpointOrigin(name=model_name(path))
        folder = cls(path, modules(path), origin, _verify_code_hash(path, code))
        _refuse_adapters(folder)
        if not folder.static and not (folder.transformer / "config.json").is_file():
            raise UsageError(f"{folder.transformer} has no config.json: this is not a complete checkpoint")
        _refuse_other_models(folder)
        refuse_newer(folder)
        for module in folder.modules:
            _refuse_weightless(module)
            _refuse_foreign_activation(module)
        return folder

    @property
    def transformer(self) -> Path:
        return self.modules[0].folder

    @property
    def static(self) -> bool:
        """True if the first module is a table of token vectors instead of a transformer."""
        return self.modules[0].kind == STATIC

    @property
    def settings(self) -> dict[str, Any]:
        """config_sentence_transformers.json: prompts, similarity, and the versions that saved the model."""
        path = self.path / "config_sentence_transformers.json"
        return read(path) if path.is_file() else {}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of files that no vector depends on. They are reported and never opened."""
        return tuple(name for name in _HEADS if (self.path / name).is_file())

    @property
    def lowercase(self) -> bool:
        for pattern in _TRANSFORMER_CONFIGS:
            for path in sorted(self.transformer.glob(pattern)):
                return bool(read(path).get("do_lower_case", False))
        return False

    def matryoshka(self, dimension: int) -> tuple[int, ...]:
        """Return the dimensions that the checkpoint states as trained, largest first. Without any: (dimension,).

        sentence-transformers writes the parameters of each MatryoshkaLoss into README.md only; other libraries write
        matryoshka_dimensions into config.json.
        """
        card = self.path / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        listed = re.findall(r'"matryoshka_dims":\s*\[([\d\s,]+)\]', text)
        dims = {int(n) for found in listed for n in re.findall(r"\d+", found)}
        config = self.modules[0].config.get("matryoshka_dimensions")
        dims |= {n for n in config if isinstance(n, int)} if isinstance(config, list) else set()
        return descending(dims, dimension)


def descending(dims: Iterable[int], dimension: int) -> tuple[int, ...]:
    """Return `dimension` and the smaller ones of `dims`, largest first."""
    return tuple(sorted({d for d in dims if 0 < d < dimension} | {dimension}, reverse=True))


def read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a JSON object")
    return content


def modules(path: Path) -> tuple[PipelineModule, ...]:
    """Return the modules that modules.json lists.

    Raises UsageError for modules that cannot be exported, UnsafeError for code and for paths outside the folder.
    """
    listing = path / "modules.json"
    if not listing.is_file():
        raise UsageError(
            f"{path} has no modules.json, so the pooling of its vectors is unknown: give --pooling mean, cls, max or "
            "lasttoken if you know it, or open it with SentenceTransformer(...) and save it with save_pretrained"
        )
    try:
        rows = json.loads(listing.read_text(encoding="utf-8"))
        listed = tuple(_module(path, str(row["type"]), str(row["path"])) for row in rows)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{listing} is damaged: it must be a JSON list of modules with `type` and `path`") from None
    kinds = [m.kind for m in listed]
    if kinds[:2] != ["Transformer", "Pooling"] and not (kinds[:1] == [STATIC] and "Pooling" not in kinds):
        raise UsageError(
            f"{listing} lists {', '.join(kinds) or 'nothing'}; only a Transformer followed by a Pooling can be "
            f"exported, or a {STATIC}"
        )
    return listed


def _module(root: Path, kind: str, path: str) -> PipelineModule:
    if not kind.startswith("sentence_transformers."):
        raise UnsafeError(f"{root} runs its own code ({kind}): only sentence-transformers' own modules are exported")
    name = kind.rpartition(".")[2]
    if name not in KNOWN:
        raise UsageError(f"{root} has a {name} module; only {', '.join(KNOWN)} can be exported")
    folder = root / path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UnsafeError(f"{root}/modules.json names a path outside the folder: {path}")
    return PipelineModule(name, folder)


def _refuse_adapters(folder: SentenceTransformersFolder) -> None:
    if (folder.transformer / "adapter_config.json").is_file():
        raise UsageError(f"{folder.path} contains a PEFT adapter, not a complete model: merge it into its base first")


def _refuse_other_models(folder: SentenceTransformersFolder) -> None:
    """Raise UsageError for other model types. sentence-transformers would replace their modules by mean pooling."""
    kind = folder.settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UsageError(f"{folder.path} is a {kind}: only a SentenceTransformer computes one vector per text")


def _verify_code_hash(path: Path, code: str | None) -> str | None:
    """Return the hash of the model's own code if the model needs that code and `code` equals its hash; else None.

    Raises UnsafeError if the code belongs to another model, or if it is not trusted; the message then has the hash that
    the user must give.
    """
    inner = modules(path)[0].folder
    configs_with_code = {name: read(inner / name).get("auto_map") for name in _CONFIGS if (inner / name).is_file()}
    configs_with_code = {name: wanted for name, wanted in configs_with_code.items() if wanted is not None}
    if not configs_with_code:
        return None
    location, sha256 = inner / next(iter(configs_with_code)), trust.code_sha256(path)
    if "--" in json.dumps(configs_with_code):
        raise UnsafeError(f"{location} needs remote code of another model (auto_map): {json.dumps(configs_with_code)}")
    if code != sha256:
        files = ", ".join(sorted(p.relative_to(path).as_posix() for p in path.rglob("*.py"))) or "none"
        raise UnsafeError(
            f"{location} needs remote code (auto_map), and a model's own code is not run by default: use a model that "
            f"transformers itself implements. If you have read the code ({files}) and trust it, give "
            f"--trust-remote-code {sha256}"
        )
    return sha256


def _refuse_foreign_activation(module: PipelineModule) -> None:
    """Raise UnsafeError for an activation outside torch. sentence-transformers would use Tanh instead, silently."""
    activation = str(module.config.get("activation_function", "torch."))
    if module.kind == "Dense" and not activation.startswith("torch."):
        raise UnsafeError(f"{module.folder} uses its own code ({activation}): only activations of torch are run")


def refuse_newer(folder: SentenceTransformersFolder) -> None:
    """Raise UsageError for a checkpoint that a newer major version of its library saved."""
    saved = {
        "transformers": folder.modules[0].config.get("transformers_version"),
        "sentence-transformers": folder.settings.get("__version__", {}).get("sentence_transformers"),
    }
    for package, saved_version in saved.items():
        installed = version(package)
        if saved_version and _major(str(saved_version)) > _major(installed):
            # transformers 4.57 opens a Qwen3 checkpoint of 5.x with another rope_theta and no warning.
            raise UsageError(
                f"{folder.path} was saved by {package} {saved_version}, and {installed} is installed: an older major "
                f"version can misread it without a warning. Run pip install '{package}>={_major(str(saved_version))}'"
            )


def _major(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0


def _refuse_weightless(module: PipelineModule) -> None:
    # For a Dense or LayerNorm, sentence-transformers opens the pickle if no safetensors file has exactly this name.
    pattern = "*.safetensors" if module.kind == "Transformer" else "model.safetensors"
    if module.kind not in _WITH_WEIGHTS or any(module.folder.glob(pattern)):
        return
    trust.refuse_pickles(module.folder)
    raise UsageError(f"{module.folder} has no weights ({pattern}): this is not a complete checkpoint")
