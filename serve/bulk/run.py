"""Texts -> shards of vectors in a folder, so that a run killed at any point goes on and ends with the same bytes.

    plan.json                 what this run is; it must be the same to go on
    ids.jsonl                 one id a line, in the order of the rows
    vectors-00000.npy         a shard, under a temporary name until it is whole
    vectors-00000.json        its hash and counts, written after it: from then on the shard is done
    encode.json               the manifest, written last; then plan.json and the shards' own records go

A shard's bytes depend on its own texts alone: batches are planned within it, and never across.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import msgspec

from embedship.bundle import Bundle, VectorCode
from embedship.errors import EmbedshipError, UsageError
from embedship.files import atomic_file, sealed
from embedship.files.sealed import SealedFile
from embedship.serve.bulk.formats import OutputFormat, arrow
from embedship.serve.bulk.manifest import FORMAT, EncodeManifest, EncodeOptions, EncodePlan, ShardRecord
from embedship.serve.bulk.shards import EncodedShard, EncoderPool, ProgressListener, ShardJob
from embedship.serve.bulk.source import TextRow, TextSource
from embedship.serve.bulk.storage import Stamp, digest
from embedship.tokens import Tokenizer

_BATCH = 512  # texts that are tokenised at once to find those without a token

MANIFEST, PLAN, IDS = "encode.json", "plan.json", "ids.jsonl"


def encode(
    encoders: EncoderPool,
    source: TextSource,
    columns: tuple[str, ...],
    out: Path,
    wishes: EncodeOptions,
    watcher: ProgressListener,
    *,
    force: bool = False,
) -> EncodeManifest:
    """Write the vectors of `source` into the folder `out`, going on where an earlier run of the same was stopped.

    `force` begins anew: what an earlier run wrote there is deleted, and nothing else.

    Raises UsageError for bad lines (all are read first), for a folder that holds something else, or a run with other
    input or options; EmbedshipError if the disk is full: what is done stays, and the next run goes on.
    """
    _require_possible(encoders.bundle, wishes)
    with locked(out), _disk(out):
        before = source.place.stamp()
        _require_ours(out, force)
        plan = sealed.seal(_plan(encoders, source, columns, wishes))
        if force:
            _forget(out)
        if (finished := _finished(out, plan)) is not None:
            watcher.found(plan.texts, plan.texts)
            return finished
        _begin(out, plan, source)
        _sweep(out)
        shards = _shards(encoders, source, before, out, plan, watcher)
        _require_still(source, before)
        return _finish(out, plan, shards)


def _require_still(source: TextSource, stamp: Stamp) -> None:
    if source.place.stamp() != stamp:
        raise UsageError(f"{source.place} changed while it was read: run again with --force, on a file that stays")


def _forget(out: Path) -> None:
    for path in (*out.glob("vectors-?????.*"), *(out / name for name in (IDS, PLAN, MANIFEST))):
        path.unlink(missing_ok=True)


def _require_possible(bundle: Bundle, wishes: EncodeOptions) -> None:
    whole_dimension = bundle.manifest.pipeline.dimension
    dimension = wishes.dimensions or whole_dimension
    if not 1 <= dimension <= whole_dimension:
        raise UsageError(f"--dimensions is {dimension}; this model has 1 to {whole_dimension}")
    if wishes.code is VectorCode.UBINARY and dimension % 8:
        raise UsageError(f"ubinary packs 8 dimensions into a byte: --dimensions {dimension} is no multiple of 8")
    if wishes.code is VectorCode.INT8:
        bundle.manifest.codes.scale(dimension)
    if wishes.layout is OutputFormat.PARQUET:
        arrow()


def _plan(encoders: EncoderPool, source: TextSource, columns: tuple[str, ...], wishes: EncodeOptions) -> EncodePlan:
    """Reads the whole input: a bad line is known before anything is written."""
    pipeline, traits = encoders.bundle.manifest.pipeline, encoders.traits
    name = wishes.prompt_name if wishes.prompt_name is not None else pipeline.document_prompt
    prompt = pipeline.prompt(name)
    texts = _count(source, Tokenizer.open(encoders.bundle), prompt)
    if not texts:
        raise UsageError(f"{source.place} is empty: it needs at least one text")
    return EncodePlan(
        format=FORMAT,
        fingerprint=encoders.bundle.fingerprint,
        variant=traits.variant,
        precision=traits.precision,
        isa=traits.isa,
        versions=traits.versions,
        code=wishes.code,
        layout=wishes.layout,
        dimension=wishes.dimensions or pipeline.dimension,
        prompt=prompt,
        shard_texts=wishes.shard_texts,
        input=source.place.name,
        input_sha256=digest(source.place),
        columns=columns,
        texts=texts,
    )


def _count(source: TextSource, tokenizer: Tokenizer, prompt: str) -> int:
    """Raises UsageError naming a text that the model makes no token of, as `""` where it has no special tokens."""
    if tokenizer([""], prompt).ids[0]:
        return sum(1 for _ in source.rows())
    texts, rows = 0, source.rows()
    while batch := list(islice(rows, _BATCH)):
        ids = tokenizer([row.text for row in batch], prompt).ids
        if [] in ids:
            where = batch[ids.index([])].where
            raise UsageError(f"{source.place}, {where}: the text is empty for this model: leave it out")
        texts += len(batch)
    return texts


def _require_ours(out: Path, force: bool) -> None:
    """A folder of ours, or an empty one; `force` takes vectors without a plan for ours, too."""
    known = {MANIFEST, PLAN, IDS}
    foreign = [name for name in os.listdir(out) if name not in known and not name.startswith((".", "vectors-"))]
    known_run = force or any((out / name).exists() for name in known)
    if foreign or (not known_run and any(out.glob("vectors-*"))):
        raise UsageError(
            f"{out} holds something else ({foreign[0] if foreign else 'vectors of another run'}): name a new or "
            "an empty folder"
        )


def _finished(out: Path, plan: EncodePlan) -> EncodeManifest | None:
    if not (out / MANIFEST).exists():
        return None
    manifest = sealed.read(out / MANIFEST, EncodeManifest, FORMAT, "encoded folder")
    _require_same(manifest.plan, plan, out)
    files = {shard.name: shard.file for shard in manifest.shards} | {IDS: manifest.ids}
    if wrong := sealed.problems(out, files, files):
        raise UsageError(f"{out} is not what was written: {'; '.join(wrong)}. Begin anew with --force")
    _tidy(out)
    return manifest


def _begin(out: Path, plan: EncodePlan, source: TextSource) -> None:
    """Write down what this run is, or see that the run which began here was the same."""
    if (out / PLAN).exists():
        _require_same(sealed.read(out / PLAN, EncodePlan, FORMAT, "unfinished run"), plan, out)
        return
    ids = (msgspec.json.encode(number if row.id is None else row.id) for number, row in enumerate(source.rows()))
    atomic_file.write(out / IDS, b"".join(line + b"\n" for line in ids))
    atomic_file.write(out / PLAN, sealed.text(plan))


def _require_same(there: EncodePlan, here: EncodePlan, out: Path) -> None:
    if differ := sealed.differences(there, here, {"digest"}):
        raise UsageError(
            f"{out} holds a run with other input or options ({differ}): repeat that one to go on with it, "
            "give another --out, or begin anew with --force"
        )


def _shards(
    encoders: EncoderPool, source: TextSource, stamp: Stamp, out: Path, plan: EncodePlan, watcher: ProgressListener
) -> tuple[ShardRecord, ...]:
    """Those that are done as their records say, the others encoded and written as they come."""
    numbers = range(-(-plan.texts // plan.shard_texts))
    done = {number: shard for number in numbers if (shard := _record(out, plan, number)) is not None}
    watcher.found(plan.texts, sum(shard.texts for shard in done.values()))
    jobs = _jobs(source, plan.shard_texts, [number for number in numbers if number not in done])
    with closing(encoders.shards(plan, jobs, watcher)) as shards:
        for encoded in shards:
            # Else it may be of other texts than the plan's, and the next run would take it for done.
            _require_still(source, stamp)
            done[encoded.number] = _written(out, plan, encoded)
    return tuple(done[number] for number in numbers)


def _jobs(source: TextSource, size: int, numbers: list[int]) -> Iterator[ShardJob]:
    """Rows of one shard after another, each further on in the file than the one before."""
    rows: Iterator[TextRow] = iter(())
    following = -1
    for number in numbers:
        first = number * size
        if number != following:
            rows = source.rows(first)
        following = number + 1
        given = list(islice(rows, size))
        ids = [first + place if row.id is None else row.id for place, row in enumerate(given)]
        yield ShardJob(number, first, [row.text for row in given], ids)


def _written(out: Path, plan: EncodePlan, encoded: EncodedShard) -> ShardRecord:
    path = out / f"vectors-{encoded.number:05d}.{plan.layout}"
    atomic_file.write(path, encoded.content)
    shard = ShardRecord(
        name=path.name, texts=encoded.texts, tokens=encoded.tokens, cut=encoded.cut, file=SealedFile.of(path)
    )
    atomic_file.write(_sidecar(out, encoded.number), msgspec.json.encode(shard))
    return shard


def _finish(out: Path, plan: EncodePlan, shards: tuple[ShardRecord, ...]) -> EncodeManifest:
    row = (plan.dimension // 8, "uint8") if plan.code is VectorCode.UBINARY else (plan.dimension, str(plan.code))
    manifest = sealed.seal(
        EncodeManifest(format=FORMAT, plan=plan, shards=shards, ids=SealedFile.of(out / IDS), row=row)
    )
    atomic_file.write(out / MANIFEST, sealed.text(manifest))
    _tidy(out)
    return manifest


def _tidy(out: Path) -> None:
    for path in (*out.glob("vectors-?????.json"), out / PLAN):
        path.unlink(missing_ok=True)
    _sweep(out)


def _sweep(out: Path) -> None:
    """Temporary files of runs that were killed; this run holds the lock, so they are nobody's."""
    for path in (*out.glob(".vectors-*"), *out.glob(f".{IDS}.*"), *out.glob(f".{PLAN}.*"), *out.glob(f".{MANIFEST}.*")):
        path.unlink(missing_ok=True)


def _record(out: Path, plan: EncodePlan, number: int) -> ShardRecord | None:
    """The record of a shard that is done: its bytes are hashed again, for disks fail between two runs."""
    try:
        shard = msgspec.json.decode(_sidecar(out, number).read_bytes(), type=ShardRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    texts = min(plan.shard_texts, plan.texts - number * plan.shard_texts)
    return None if shard.texts != texts or sealed.problems(out, {shard.name: shard.file}, [shard.name]) else shard


def _sidecar(out: Path, number: int) -> Path:
    return out / f"vectors-{number:05d}.json"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run a folder: the lock goes with the process, however it ends."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"another run writes to {out}: wait for it, or give another --out") from None
    finally:
        os.close(descriptor)


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except EmbedshipError as error:
        if isinstance(error.__cause__, OSError):
            raise EmbedshipError(f"{error}. What is encoded stays: the same command goes on from there") from error
        raise
