"""PEFT LoRA adapters: loaded in float32, merged into their base, and compared with the unmerged model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedship.bundle import AdapterMerge
from embedship.codes import cosine
from embedship.errors import GateError, MismatchError, UsageError
from embedship.export import probe_texts
from embedship.export.checkpoint import hub, plain_transformers, trust
from embedship.export.checkpoint.folder import SentenceTransformersFolder, modules, read
from embedship.export.checkpoint.forward import translate_model_errors
from embedship.export.checkpoint.load import load
from embedship.export.silence import ignoring, no_progress_bars, silence
from embedship.files.sealed import sha256_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Merging adds one number per weight. In float32, the measured cosine to the unmerged model is 0.9999999.
FLOOR = 0.99999
_PROBES = 48
# Other initialisations (pissa, olora, corda, loftq) change the base's weights before training, so the base's file does
# not contain the weights that the adapter belongs to.
_STARTS = (True, False, None, "gaussian", "orthogonal")
_DEPRECATED = (FutureWarning, r"`is_gradient_checkpointing` is deprecated")  # PEFT 0.21 with transformers 5.23
_PREFIX = "base_model.model."
_BASE_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
# If the adapter was saved without its tokenizer, it was trained with the base's.
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


def is_adapter(folder: Path) -> bool:
    return (_transformer(folder) / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the base that adapter_config.json names: a folder, or a revision in the hub's cache.

    Raises UsageError if it is not on this machine.
    """
    config = read(_transformer(folder) / CONFIG)
    name, revision = (str(config.get(key) or "") for key in ("base_model_name_or_path", "revision"))
    if name and Path(name).is_dir():
        return name
    if name and (cached := hub.cached(name, revision or "main")):
        return str(cached)
    if name and revision:
        raise UsageError(f"{folder} is an adapter over {name} at revision {revision}, which is not here: give "
                         f"--base {name}@{revision} to fetch it, or --base PATH")  # fmt: skip
    raise UsageError(f"{folder} is an adapter over {name or 'a base it does not name'}, and the base is not here: "
                     "give --base PATH")  # fmt: skip


def merge(folder: Path, base: Path, work_folder: Path) -> tuple[Path, AdapterMerge]:
    """Merge the adapter in `folder` into `base`. Returns a complete sentence-transformers folder below `work_folder`.

    Prompts, pooling and tokenizer are the adapter's if it has a modules.json, else the base's. Raises UsageError if it
    cannot be merged exactly, and GateError if the merged vectors differ from the unmerged ones.
    """
    adapter_transformer, base_transformer = _transformer(folder), _transformer(base)
    config = read(adapter_transformer / CONFIG)
    _refuse_unmergeable(adapter_transformer, config)
    _refuse_base(adapter_transformer, config, base_transformer)
    target = work_folder / "merged"
    _lay_out(folder, base, target)
    model = load(SentenceTransformersFolder.open(target))
    minimum = _merge(model, adapter_transformer, config)
    inner = _transformer(target)
    _unlink(inner, _BASE_FILES)
    with silence(), no_progress_bars():
        model[0].model.save_pretrained(inner)
    files = {path.name: sha256_of(path) for path in sorted(base_transformer.glob("*.safetensors"))}
    return target, AdapterMerge(
        adapter_sha256=sha256_of(adapter_transformer / WEIGHTS), base=files, texts=_PROBES, minimum=minimum
    )


def _transformer(folder: Path) -> Path:
    return modules(folder)[0].folder if (folder / "modules.json").is_file() else folder


def _refuse_unmergeable(source: Path, config: dict[str, Any]) -> None:
    trust.refuse_pickles(source)
    if not (source / WEIGHTS).is_file():
        raise UsageError(f"{source} has an {CONFIG} but no {WEIGHTS}: this is not a complete adapter")
    refusals = {
        f"is of type {config.get('peft_type')}: only LORA (also DoRA and rsLoRA) can be merged here. Merge it with "
        "peft, and export the result": config.get("peft_type") != "LORA",
        f"needs a changed base (init_lora_weights={config.get('init_lora_weights')!r}): save it with the option "
        "path_initial_model_for_weight_conversion of peft": config.get("init_lora_weights", True) not in _STARTS,
        "also contains whole layers (modules_to_save): merge it with peft, and export the result": config.get(
            "modules_to_save"
        ),
        "applies only after certain tokens of a text (aLoRA), so it cannot be merged: export a model without it": (
            config.get("alora_invocation_tokens")
        ),
    }
    for problem, applies in refusals.items():
        if applies:
            raise UsageError(f"the adapter in {source} {problem}")


def _refuse_base(source: Path, config: dict[str, Any], base: Path) -> None:
    if not (base / "config.json").is_file():
        raise UsageError(f"{base} has no config.json: it is not the base of an adapter. Give --base PATH")
    if "quantization_config" in read(base / "config.json"):
        raise UsageError(
            f"{base} is quantised. An adapter merged into rounded weights gives other vectors: give the base model in "
            "full precision with --base PATH"
        )
    trained, current = str(config.get("revision") or ""), base.name
    if _is_commit(trained) and _is_commit(current) and trained != current:
        raise MismatchError(f"the adapter in {source} was trained on revision {trained} of its base, not on {current}")


def _is_commit(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def _lay_out(folder: Path, base: Path, target: Path) -> None:
    """Link a complete sentence-transformers folder of the base, with the adapter's prompts and pooling."""
    own = (folder / "modules.json").is_file()
    if not own and not (base / "modules.json").is_file():
        raise UsageError(f"neither {folder} nor its base {base} has a modules.json, so nothing says how vectors are "
                         "pooled: give --pooling mean|cls|max|lasttoken")  # fmt: skip
    if not own:
        _refuse_other_tokenizer(folder, _transformer(base))
        plain_transformers.symlink_tree(base, target)
        return
    plain_transformers.symlink_tree(folder, target)
    inner = _transformer(target)
    _unlink(inner, (CONFIG, "adapter_model.*", *_BASE_FILES))
    missing = () if (inner / "tokenizer_config.json").exists() else _TOKENIZER
    for path in (p for pattern in (*_BASE_FILES, *missing) for p in sorted(_transformer(base).glob(pattern))):
        (inner / path.name).symlink_to(path.resolve())


def _refuse_other_tokenizer(folder: Path, base: Path) -> None:
    """Raise UsageError if an adapter without modules.json has another tokenizer than its base.

    The tokenizer of the base would be used.
    """
    adapter_file, base_file = (path / "tokenizer.json" for path in (folder, base))
    if adapter_file.is_file() and base_file.is_file() and _vocabulary(adapter_file) != _vocabulary(base_file):
        raise UsageError(
            f"{adapter_file} has another vocabulary than {base_file}: this adapter was trained with tokens of its own"
        )


def _vocabulary(path: Path) -> list[Any]:
    content = read(path)
    return [content.get("model"), [token.get("content") for token in content.get("added_tokens") or []]]


def _unlink(folder: Path, patterns: Sequence[str]) -> None:
    for path in {path for pattern in patterns for path in folder.glob(pattern)}:
        path.unlink()


def _merge(model: Any, source: Path, config: dict[str, Any]) -> float:
    """Merge into the transformer of `model` in place. Returns the lowest cosine of merged to unmerged vectors."""
    texts = probe_texts.sample(probe_texts.real(None), _PROBES, seed=0)
    adapted = _adapt(model[0].model, source, config)
    model.eval()
    with translate_model_errors(source):
        before = model.encode(texts, prompt="", show_progress_bar=False)
    try:
        adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise GateError(f"the adapter in {source} cannot be merged: {error}") from error
    after = model.encode(texts, prompt="", show_progress_bar=False)
    minimum = float(np.min(cosine(after, before)))
    if not minimum >= FLOOR:
        raise GateError(f"merging the adapter in {source} moves its vectors: cosine {minimum:.6f}, floor {FLOOR}")
    return minimum


def _adapt(backbone: Any, source: Path, config: dict[str, Any]) -> Any:
    """Add the adapter's layers to `backbone` and load all its weights into them.

    PEFT only warns about weights without a layer and layers without a weight; here both raise UsageError.
    """
    import peft
    from safetensors.torch import load_file

    tensors = {name: tensor.float() for name, tensor in load_file(source / WEIGHTS).items()}
    if all(name.startswith(f"{_PREFIX}model.") for name in tensors) and not hasattr(backbone, "model"):
        # Trained through the ...ForCausalLM class, which contains the transformer as `model`.
        tensors = {_PREFIX + name.removeprefix(f"{_PREFIX}model."): tensor for name, tensor in tensors.items()}
    _refuse_other_class(backbone, config, source)
    try:
        settings = peft.PeftConfig.from_pretrained(str(source))
        with ignoring(_DEPRECATED):
            adapted = peft.PeftModel(backbone, settings)
        loaded = peft.set_peft_model_state_dict(adapted, tensors)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UsageError(f"the adapter in {source} does not fit its base: {str(error).splitlines()[0]}") from error
    unused = [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if "lora_" in name)]
    if unused:
        raise UsageError(f"the adapter in {source} does not fit its base: {len(unused)} weights have no counterpart "
                         f"({unused[0]}, ...)")  # fmt: skip
    return adapted


def _refuse_other_class(backbone: Any, config: dict[str, Any], source: Path) -> None:
    trained = str((config.get("auto_mapping") or {}).get("base_model_class") or "")
    stems = [name.split("For")[0].removesuffix("Model") for name in (trained, type(backbone).__name__)]
    if trained and stems[0] != stems[1]:
        raise MismatchError(f"the adapter in {source} was trained on a {trained}, and its base is a "
                            f"{type(backbone).__name__}: give the right --base")  # fmt: skip
