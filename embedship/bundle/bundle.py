"""Bundle: a folder with one exported model, its measurements, and the hashes that prove it is unchanged.

`embedship export` writes it once, and it is never changed afterwards. `bundle.json` lists every file with its sha256
and contains the fingerprint of the model. Indexes, drift references and responses have the same fingerprint, so that
vectors of different models are never mixed. numpy and the standard library are enough to read and verify a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

import msgspec

from embedship.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    SUBSET,
    TOKENIZER,
    BundleManifest,
    Variant,
    fingerprint,
)
from embedship.bundle.record import FORMAT, TASK_FORMAT, Runtime, Task
from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.sealed import SealedFile


class BundleSubset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record in SUBSET: the only variant whose files `embedship pull` fetched."""

    variant: str

    def write(self, folder: Path) -> None:
        (folder / SUBSET).write_bytes(msgspec.json.encode(self))


class Bundle(msgspec.Struct, frozen=True):
    """An opened bundle: its folder and its manifest. `only` is the name of the variant that it has, or None for all."""

    folder: Path
    manifest: BundleManifest
    only: str | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Read and check the manifest. Files are not hashed here but in `verify`.

        Raises UsageError if the folder has no bundle, UnsafeError if the manifest contradicts itself.
        """
        path = Path(folder) / MANIFEST
        manifest = sealed.read(path, BundleManifest, (FORMAT, TASK_FORMAT), "bundle")
        _require_consistent(manifest, path)
        return cls(path.parent, manifest, _subset(path.parent, manifest))

    @classmethod
    def write(cls, folder: Path, manifest: BundleManifest) -> Self:
        """Hash every file in `folder`, write the manifest last, and return the bundle."""
        files = {
            name: SealedFile.from_path(folder / name)
            for name in sealed.list_files(folder)
            if name not in {MANIFEST, SIGNATURE}
        }
        return cls(folder, sealed.write(folder / MANIFEST, msgspec.structs.replace(manifest, files=files)))

    @property
    def fingerprint(self) -> str:
        """The sha256 that identifies the model: see `manifest.fingerprint`."""
        return self.manifest.fingerprint

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle."""
        return self.folder / name

    @property
    def task(self) -> Task:
        return self.manifest.pipeline.task

    def require(self, task: Task) -> None:
        """Raise UsageError, with a suggestion, unless the bundle is for this task."""
        if self.task is not task:
            raise UsageError(f"{self.folder} {_TASKS[self.task]}, but this needs a bundle that {_TASKS[task]}: "
                             f"{_SUGGESTIONS[self.task]}")  # fmt: skip

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants whose files are in the folder: all, unless it was pulled with --variant."""
        return tuple(v for v in self.manifest.variants if self.only in (None, v.name))

    @property
    def files(self) -> dict[str, SealedFile]:
        """The files that must be in the folder: all listed ones, without the graphs of variants that it lacks."""
        if self.only is None:
            return self.manifest.files
        own_files = set(self.files_of(self.variant(self.only)))
        absent = {name for v in self.manifest.variants for name in self.files_of(v)} - own_files
        return {name: file for name, file in self.manifest.files.items() if name not in absent}

    def require_complete(self, purpose: str) -> None:
        """Raise UsageError if the bundle was pulled with --variant. `purpose` names what needs all of it."""
        if self.only is not None:
            raise UsageError(
                f"{self.folder} has only the variant {self.only}, and {purpose} needs the complete bundle: pull it "
                "without --variant"
            )

    @property
    def plain(self) -> Variant:
        """The float32 variant from which the others were made. After the export it replaces the checkpoint."""
        return self.manifest.variants[0]

    def variant(self, name: str) -> Variant:
        """Return the named variant, or raise UsageError. `variant_choice.variant` picks one when none is named."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        if any(variant.name == name for variant in self.manifest.variants):
            raise UsageError(
                f"{self.folder} was pulled with --variant {self.only}, so it lacks {name}: pull with --variant {name}"
            )
        known = ", ".join(v.name for v in self.manifest.variants)
        raise UsageError(f"this bundle has no variant {name!r}; it has: {known}")

    def files_of(self, variant: Variant) -> list[str]:
        """Return the names of the files that decide this variant's vectors: its own files, tokenizer and golden texts.

        The weights of a graph are next to it with the same stem: model.xml and model.bin, model.onnx and
        model.onnx_data.
        """
        graph = PurePosixPath(variant.path)
        own = [n for n in self.manifest.files if PurePosixPath(n).parent == graph.parent and _stem(n) == _stem(graph)]
        return [TOKENIZER, GOLDEN, *own]

    def verify(self, names: Iterable[str] | None = None) -> int:
        """Hash the named files again (default: all of them) and return how many were checked.

        Raises UnsafeError with the name of every file that is missing or changed. When all files are checked, other
        files are errors as well: those that the manifest does not list, and those of variants that were not pulled.
        """
        wanted = list(self.files if names is None else names)
        problems = sealed.problems(self.folder, self.manifest.files, wanted)
        if names is None:
            known = self.files if self.only is None else (*self.files, SUBSET)
            problems += [f"{name} was added" for name in unexpected_files(self.folder, known)]
        if problems:
            raise UnsafeError(f"{self.folder} is not what was exported: " + "; ".join(problems))
        return len(wanted)


def _subset(folder: Path, manifest: BundleManifest) -> str | None:
    """Return the only variant of a bundle that was pulled with --variant. None: it has all variants."""
    path = folder / SUBSET
    if not path.is_symlink() and not path.exists():
        return None
    if path.is_symlink() or not path.is_file():
        raise UnsafeError(f"{path} is not a regular file: {folder} is not the bundle that was pulled")
    try:
        variant = msgspec.json.decode(path.read_bytes(), type=BundleSubset).variant
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnsafeError(f"{path} is damaged: {error}") from None
    if all(variant != each.name for each in manifest.variants):
        raise UnsafeError(f"{path} names the variant {variant!r}, which the bundle does not have")
    return variant


def unexpected_files(folder: Path, listed: Iterable[str]) -> list[str]:
    """Return the files, links and pipes in the folder, except the listed ones, the manifest and the signature."""
    signature = {SIGNATURE} if sealed.list_files(folder).get(SIGNATURE) else set()
    return sealed.unlisted_files(folder, {MANIFEST, *signature, *listed})


_TASKS = {Task.EMBED: "embeds texts", Task.RERANK: "re-ranks passages"}
_SUGGESTIONS = {
    Task.EMBED: "export a cross-encoder with `embedship export CROSS_ENCODER --task rerank`",
    Task.RERANK: "give it to `embedship serve BUNDLE --reranker` together with a bundle that embeds, or open it in "
    "Python with Encoder.open(bundle, task=Task.RERANK)",
}


def _stem(name: str | PurePosixPath) -> str:
    return PurePosixPath(name).name.split(".", 1)[0]


# OpenVINO chooses its reader by the file's suffix. It also reads TensorFlow and Paddle graphs, which no export writes.
_GRAPHS = {Runtime.ONNXRUNTIME: (".onnx",), Runtime.OPENVINO: (".xml", ".onnx")}


def _require_consistent(manifest: BundleManifest, path: Path) -> None:
    if manifest.format != manifest.pipeline.task.manifest_format:
        raise UnsafeError(
            f"{path} contradicts itself: format {manifest.format} is not the format of task {manifest.pipeline.task}"
        )
    if fingerprint(manifest.source, manifest.pipeline, manifest.tokenizer_sha256) != manifest.fingerprint:
        raise UnsafeError(f"{path} contradicts itself: its fingerprint does not match its pipeline and weights")
    if (listed := manifest.files.get(TOKENIZER)) is None or listed.sha256 != manifest.tokenizer_sha256:
        raise UnsafeError(f"{path} contradicts itself: {TOKENIZER} is not the file its fingerprint was computed from")
    if unlisted := [v.path for v in manifest.variants if v.path not in manifest.files]:
        raise UnsafeError(f"{path} contradicts itself: it does not list the variant files {', '.join(unlisted)}")
    if not manifest.variants:
        raise UnsafeError(f"{path} contradicts itself: it has no variant")
    if unreadable := [v.path for v in manifest.variants if PurePosixPath(v.path).suffix not in _GRAPHS[v.runtime]]:
        raise UnsafeError(f"{path} contradicts itself: {', '.join(unreadable)} is not a graph that its runtime reads")
