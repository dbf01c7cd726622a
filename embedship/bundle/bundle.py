"""The bundle: a folder that holds one model, ready to run, with the evidence that it is right.

Written once by `embedship export`, never changed afterwards. `bundle.json` lists every file with its sha256 and carries
the fingerprint that indexes, drift references and responses are bound to. numpy and the standard library suffice to
read and verify one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

import msgspec

from embedship.bundle.manifest import (
    FORMAT,
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    TASK_FORMAT,
    TOKENIZER,
    BundleManifest,
    Runtime,
    Task,
    Variant,
    fingerprint,
)
from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.sealed import SealedFile


class Bundle(msgspec.Struct, frozen=True):
    """An opened bundle: its folder and its manifest."""

    folder: Path
    manifest: BundleManifest

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Read and check the manifest; files are hashed by `verify`, not here.

        Raises UsageError when the folder holds no bundle, UnsafeError when the manifest contradicts itself.
        """
        path = Path(folder) / MANIFEST
        manifest = sealed.read(path, BundleManifest, (FORMAT, TASK_FORMAT), "bundle")
        _require_consistent(manifest, path)
        return cls(path.parent, manifest)

    @classmethod
    def write(cls, folder: Path, manifest: BundleManifest) -> Self:
        """Hash every file that lies in `folder`, then write the manifest last."""
        files = {
            name: SealedFile.of(folder / name)
            for name in sealed.list_files(folder)
            if name not in {MANIFEST, SIGNATURE}
        }
        return cls(folder, sealed.write(folder / MANIFEST, msgspec.structs.replace(manifest, files=files)))

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def task(self) -> Task:
        return self.manifest.pipeline.task

    def require(self, task: Task) -> None:
        """Raise UsageError, with the way on, for a bundle of another task."""
        if self.task is not task:
            raise UsageError(f"{self.folder} {_TASKS[self.task]}, and a bundle is needed here that {_TASKS[task]}: "
                             f"{_CURES[self.task]}")  # fmt: skip

    @property
    def plain(self) -> Variant:
        """The float32 graph from which the others were made: what stands for the checkpoint when that is far away."""
        return self.manifest.variants[0]

    def variant(self, name: str) -> Variant:
        """The named variant; choice.variant says which is taken where nobody names one."""
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.manifest.variants)
        raise UsageError(f"this bundle has no variant {name!r}; it has: {known}")

    def files_of(self, variant: Variant) -> list[str]:
        """What must be right for this variant to give right vectors: its own files, the tokenizer, the golden texts.

        A graph's weights lie beside it under the same stem: model.xml and model.bin, model.onnx and model.onnx_data.
        """
        graph = PurePosixPath(variant.path)
        own = [n for n in self.manifest.files if PurePosixPath(n).parent == graph.parent and _stem(n) == _stem(graph)]
        return [TOKENIZER, GOLDEN, *own]

    def verify(self, names: Iterable[str] | None = None) -> int:
        """Re-hash the named files (default: all) and return how many were right.

        Raises UnsafeError naming every file that is missing, changed, or (when all are asked for) not in the manifest.
        """
        wanted = list(self.manifest.files if names is None else names)
        problems = sealed.problems(self.folder, self.manifest.files, wanted)
        if names is None:
            problems += [f"{name} was added" for name in strangers(self.folder, self.manifest.files)]
        if problems:
            raise UnsafeError(f"{self.folder} is not what was exported: " + "; ".join(problems))
        return len(wanted)


def strangers(folder: Path, listed: Iterable[str]) -> list[str]:
    """What lies in the folder and is neither listed, nor the manifest, nor a signature, links and pipes included."""
    signature = {SIGNATURE} if sealed.list_files(folder).get(SIGNATURE) else set()
    return sealed.unlisted_files(folder, {MANIFEST, *signature, *listed})


_TASKS = {Task.EMBED: "embeds texts", Task.RERANK: "re-ranks passages"}
_CURES = {
    Task.EMBED: "export a cross-encoder with `embedship export CROSS_ENCODER --task rerank`",
    Task.RERANK: "`embedship serve BUNDLE --reranker` takes it beside one that embeds, and in Python "
    "Encoder.open(bundle, task=Task.RERANK)",
}


def _stem(name: str | PurePosixPath) -> str:
    return PurePosixPath(name).name.split(".", 1)[0]


# OpenVINO takes whatever an ending stands for: graphs of TensorFlow and Paddle, too, which no export writes.
_GRAPHS = {Runtime.ONNXRUNTIME: (".onnx",), Runtime.OPENVINO: (".xml", ".onnx")}


def _require_consistent(manifest: BundleManifest, path: Path) -> None:
    if manifest.format != manifest.pipeline.task.manifest_format:
        raise UnsafeError(f"{path} contradicts itself: {manifest.pipeline.task} is no task of format {manifest.format}")
    if fingerprint(manifest.source, manifest.pipeline, manifest.tokenizer_sha256) != manifest.fingerprint:
        raise UnsafeError(f"{path} contradicts itself: its fingerprint is not that of its pipeline and weights")
    if (listed := manifest.files.get(TOKENIZER)) is None or listed.sha256 != manifest.tokenizer_sha256:
        raise UnsafeError(f"{path} contradicts itself: {TOKENIZER} is not the one its fingerprint was made with")
    if unlisted := [v.path for v in manifest.variants if v.path not in manifest.files]:
        raise UnsafeError(f"{path} contradicts itself: it lists no file {', '.join(unlisted)}")
    if not manifest.variants:
        raise UnsafeError(f"{path} contradicts itself: it has no variant")
    if strange := [v.path for v in manifest.variants if PurePosixPath(v.path).suffix not in _GRAPHS[v.runtime]]:
        raise UnsafeError(f"{path} contradicts itself: {', '.join(strange)} is no graph that its runtime reads")
