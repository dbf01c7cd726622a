"""A sentence-transformers folder (2.x to 6.x), read as plain JSON: what is unsafe or unknown is refused unloaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from embedship.bundle import AdapterMerge
from embedship.errors import UnsafeError, UsageError
from embedship.export.checkpoint import trust

# Dropout does nothing at inference.
KNOWN = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_WEIGHED = {"Transformer", "Dense", "LayerNorm"}
# A classifier on top of the vectors, as SetFit saves it: not part of what gives a vector.
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
    """Where a folder came from, where it does not show by itself."""

    name: str
    revision: str | None = None  # commit of a hub
    merge: AdapterMerge | None = None


# Folder names that say nothing about the model inside.
_GENERIC = re.compile(r"(model|checkpoint|output|final|best|latest)s?([-_]?\d+)?", re.IGNORECASE)
# A model's name, with its organisation or without; a title of several words is a sentence.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CARD = re.compile(r"\A\s*---\n(.*?)\n---\n(.*)", re.DOTALL)  # YAML, and the page below it


def model_name(path: Path) -> str:
    """The folder's name, or, where it is one like `model`, the name in the model card.

    That is `model_name:` in the YAML of README.md, or the first title, if it is a name and not a sentence.
    """
    folder, card = path.resolve().name, path / "README.md"
    if not _GENERIC.fullmatch(folder) or not card.is_file():
        return folder
    text = card.read_text(encoding="utf-8", errors="replace")
    head, page = match.groups() if (match := _CARD.match(text)) else ("", text)
    stated = re.search(r"^model_name:(.*)$", head, re.MULTILINE)
    title = re.search(r"^# (.*)$", page, re.MULTILINE)
    names = [found[1].strip(" \t\r\"'") for found in (stated, title) if found]
    return next((name for name in names if _NAME.fullmatch(name) and not _GENERIC.fullmatch(name)), folder)


@dataclass(frozen=True, slots=True)
class SentenceTransformersFolder:
    """The modules of a checkpoint, in the order they run; the first is the transformer.

    `code` is the sha256 of the code that comes with it and may run, None for the usual case of no such code.
    """

    path: Path
    modules: tuple[PipelineModule, ...]
    origin: CheckpointOrigin
    code: str | None = None

    @classmethod
    def open(cls, path: Path | str, origin: CheckpointOrigin | None = None, code: str | None = None) -> Self:
        """Read a folder; `code` is the hash of the code that somebody vouches for.

        Raises UsageError for what is no checkpoint or not supported, UnsafeError for pickles and foreign code.
        """
        path = Path(path)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder: give the folder that SentenceTransformer.save_pretrained wrote")
        origin = origin or CheckpointOrigin(name=model_name(path))
        folder = cls(path, modules(path), origin, _verify_code_hash(path, code))
        _refuse_adapters(folder)
        if not (folder.transformer / "config.json").is_file():
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
    def settings(self) -> dict[str, Any]:
        """config_sentence_transformers.json: prompts, similarity, the versions it was saved with."""
        path = self.path / "config_sentence_transformers.json"
        return read(path) if path.is_file() else {}

    @property
    def left_out(self) -> tuple[str, ...]:
        """What lies there and is no part of the vectors: named, never opened."""
        return tuple(name for name in _HEADS if (self.path / name).is_file())

    @property
    def lowercase(self) -> bool:
        for pattern in _TRANSFORMER_CONFIGS:
            for path in sorted(self.transformer.glob(pattern)):
                return bool(read(path).get("do_lower_case", False))
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


def read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object")
    return content


def modules(path: Path) -> tuple[PipelineModule, ...]:
    """What modules.json lists.

    Raises UsageError for what cannot be exported, UnsafeError for code and paths outside.
    """
    listing = path / "modules.json"
    if not listing.is_file():
        raise UsageError(
            f"{path} has no modules.json, so nothing says how its vectors are pooled: give --pooling mean, cls, max or "
            "lasttoken if you know it, else open it with SentenceTransformer(...) and save it with save_pretrained"
        )
    try:
        rows = json.loads(listing.read_text(encoding="utf-8"))
        found = tuple(_module(path, str(row["type"]), str(row["path"])) for row in rows)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{listing} is damaged: it is no JSON list of modules, each with `type` and `path`") from None
    if [m.kind for m in found[:2]] != ["Transformer", "Pooling"]:
        kinds = ", ".join(m.kind for m in found) or "nothing"
        raise UsageError(f"{listing} lists {kinds}; a Transformer followed by a Pooling is what can be exported")
    return found


def _module(root: Path, kind: str, path: str) -> PipelineModule:
    if not kind.startswith("sentence_transformers."):
        raise UnsafeError(f"{root} runs code of its own ({kind}): only sentence-transformers' own modules are exported")
    name = kind.rpartition(".")[2]
    if name not in KNOWN:
        raise UsageError(f"{root} has a {name} module; only {', '.join(KNOWN)} can be exported")
    folder = root / path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UnsafeError(f"{root}/modules.json leads outside the folder: {path}")
    return PipelineModule(name, folder)


def _refuse_adapters(folder: SentenceTransformersFolder) -> None:
    if (folder.transformer / "adapter_config.json").is_file():
        raise UsageError(f"{folder.path} holds a PEFT adapter, not a whole model: it has to be merged into its base")


def _refuse_other_models(folder: SentenceTransformersFolder) -> None:
    """sentence-transformers would replace the modules of these by mean pooling, and go on."""
    kind = folder.settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UsageError(f"{folder.path} is a {kind}: only a SentenceTransformer gives one vector a text")


def _verify_code_hash(path: Path, code: str | None) -> str | None:
    """The hash of the code that comes with the model, if it asks for it to run and `code` is that hash.

    Raises UnsafeError with the hash to give, or for code that lies elsewhere.
    """
    inner = modules(path)[0].folder
    asking = {name: read(inner / name).get("auto_map") for name in _CONFIGS if (inner / name).is_file()}
    asking = {name: wanted for name, wanted in asking.items() if wanted is not None}
    if not asking:
        return None
    where, here = inner / next(iter(asking)), trust.code_sha256(path)
    if "--" in json.dumps(asking):
        raise UnsafeError(f"{where} asks for remote code of another model (auto_map): {json.dumps(asking)}")
    if code != here:
        files = ", ".join(sorted(p.relative_to(path).as_posix() for p in path.rglob("*.py"))) or "none"
        raise UnsafeError(
            f"{where} asks for remote code (auto_map), and code that comes with a model is not run here: use a model "
            f"that transformers itself implements. If you have read the code ({files}) and trust it, give "
            f"--trust-remote-code {here}"
        )
    return here


def _refuse_foreign_activation(module: PipelineModule) -> None:
    """sentence-transformers puts Tanh in its place and goes on."""
    activation = str(module.config.get("activation_function", "torch."))
    if module.kind == "Dense" and not activation.startswith("torch."):
        raise UnsafeError(f"{module.folder} uses code of its own ({activation}): only activations of torch are run")


def refuse_newer(folder: SentenceTransformersFolder) -> None:
    """Raises UsageError for what a later major version of its library has saved."""
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


def _refuse_weightless(module: PipelineModule) -> None:
    # Beside a safetensors file of another name, sentence-transformers opens the pickle of a Dense or LayerNorm.
    pattern = "*.safetensors" if module.kind == "Transformer" else "model.safetensors"
    if module.kind not in _WEIGHED or any(module.folder.glob(pattern)):
        return
    trust.refuse_pickles(module.folder)
    raise UsageError(f"{module.folder} has no weights ({pattern}): this is not a complete checkpoint")
