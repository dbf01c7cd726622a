"""Bulk run: encodes texts into a folder of shards. A run that is killed can be resumed, with identical bytes.

    plan.json                 everything that determines the output; a resumed run must have the same plan
    ids.jsonl                 one id per line, in the order of the rows
    vectors-00000.npy         a shard, written under a temporary name and then renamed
    vectors-00000.json        hash and counts of the shard, written after it: it marks the shard as finished
    encode.json               the manifest, written last; then plan.json and the records of the shards are deleted

The bytes of a shard depend only on its own texts: a batch never contains texts of two shards.
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

_TOKENIZER_BATCH = 512  # texts that are tokenised at once to find texts without any token

MANIFEST, PLAN, IDS = "encode.json", "plan.json", "ids.jsonl"


def encode(
    encoders: EncoderPool,
    source: TextSource,
    columns: tuple[str, ...],
    out: Path,
    options: EncodeOptions,
    progress: ProgressListener,
    *,
    force: bool = False,
) -> EncodeManifest:
    """Write the vectors of `source` into the folder `out`. An earlier run with the same plan is continued.

    With `force` the run starts again: the files of an earlier run are deleted, and no others.

    Raises UsageError for invalid lines (all lines are read first), for a folder with other contents, and for a run with
    other input or options. Raises EmbedshipError if the disk is full: finished shards stay, and the next run continues.
    """
    _require_possible(encoders.bundle, options)
    with locked(out), _explain_disk_errors(out):
        stamp = source.place.stamp()
        _require_own_folder(out, force)
        plan = sealed.seal(_plan(encoders, source, columns, options))
        if force:
            _delete_run(out)
        if (finished := _finished(out, plan)) is not None:
            progress.start(plan.texts, plan.texts)
            return finished
        _begin(out, plan, source)
        _delete_temporary_files(out)
        shards = _encode_shards(encoders, source, stamp, out, plan, progress)
        _require_unchanged(source, stamp)
        return _finish(out, plan, shards)


def _require_unchanged(source: TextSource, stamp: Stamp) -> None:
    if source.place.stamp() != stamp:
        raise UsageError(
            f"{source.place} changed while it was read: run again with --force, and do not change the file meanwhile"
        )


def _delete_run(out: Path) -> None:
    for path in (*out.glob("vectors-?????.*"), *(out / name for name in (IDS, PLAN, MANIFEST))):
        path.unlink(missing_ok=True)


def _require_possible(bundle: Bundle, options: EncodeOptions) -> None:
    model_dimension = bundle.manifest.pipeline.dimension
    dimension = options.dimensions or model_dimension
    if not 1 <= dimension <= model_dimension:
        raise UsageError(f"--dimensions is {dimension}; this model has 1 to {model_dimension}")
    if options.code is VectorCode.UBINARY and dimension % 8:
        raise UsageError(f"--dimensions {dimension} is not a multiple of 8: ubinary packs 8 dimensions into one byte")
    if options.code is VectorCode.INT8:
        bundle.manifest.codes.scale(dimension)
    if options.layout is OutputFormat.PARQUET:
        arrow()


def _plan(encoders: EncoderPool, source: TextSource, columns: tuple[str, ...], options: EncodeOptions) -> EncodePlan:
    """Read the whole input and return the plan: an invalid line is reported before anything is written."""
    pipeline, traits = encoders.bundle.manifest.pipeline, encoders.traits
    name = options.prompt_name if options.prompt_name is not None else pipeline.document_prompt
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
        code=options.code,
        layout=options.layout,
        dimension=options.dimensions or pipeline.dimension,
        prompt=prompt,
        shard_texts=options.shard_texts,
        input=source.place.name,
        input_sha256=digest(source.place),
        columns=columns,
        texts=texts,
    )


def _count(source: TextSource, tokenizer: Tokenizer, prompt: str) -> int:
    """Return the number of texts.

    Raises UsageError for a text without tokens: `""` for a tokenizer that adds no special tokens.
    """
    if tokenizer([""], prompt).ids[0]:
        return sum(1 for _ in source.rows())
    texts, rows = 0, source.rows()
    while batch := list(islice(rows, _TOKENIZER_BATCH)):
        ids = tokenizer([row.text for row in batch], prompt).ids
        if [] in ids:
            place = batch[ids.index([])].where
            raise UsageError(f"{source.place}, {place}: the text is empty for this model: remove it")
        texts += len(batch)
    return texts


def _require_own_folder(out: Path, force: bool) -> None:
    """Raise UsageError unless the folder is empty or has only files of a run. `force` allows shards without plan."""
    known = {MANIFEST, PLAN, IDS}
    foreign = [name for name in os.listdir(out) if name not in known and not name.startswith((".", "vectors-"))]
    known_run = force or any((out / name).exists() for name in known)
    if foreign or (not known_run and any(out.glob("vectors-*"))):
        raise UsageError(
            f"{out} contains other files ({foreign[0] if foreign else 'vectors of another run'}): give a new or an "
            "empty folder"
        )


def _finished(out: Path, plan: EncodePlan) -> EncodeManifest | None:
    """Return the manifest of a finished run with this plan, or None. Raises UsageError if its files were changed."""
    if not (out / MANIFEST).exists():
        return None
    manifest = sealed.read(out / MANIFEST, EncodeManifest, FORMAT, "encoded folder")
    _require_same(manifest.plan, plan, out)
    files = {shard.name: shard.file for shard in manifest.shards} | {IDS: manifest.ids}
    if wrong := sealed.problems(out, files, files):
        raise UsageError(f"{out} differs from what was written: {'; '.join(wrong)}. Start again with --force")
    _delete_work_files(out)
    return manifest


def _begin(out: Path, plan: EncodePlan, source: TextSource) -> None:
    """Write the ids and the plan, or check that the run which was started here has the same plan."""
    if (out / PLAN).exists():
        _require_same(sealed.read(out / PLAN, EncodePlan, FORMAT, "unfinished run"), plan, out)
        return
    ids = (msgspec.json.encode(number if row.id is None else row.id) for number, row in enumerate(source.rows()))
    atomic_file.write(out / IDS, b"".join(line + b"\n" for line in ids))
    atomic_file.write(out / PLAN, sealed.to_bytes(plan))


def _require_same(stored: EncodePlan, plan: EncodePlan, out: Path) -> None:
    if differ := sealed.differences(stored, plan, {"digest"}):
        raise UsageError(
            f"{out} contains a run with other input or options ({differ}): give the same ones to continue it, give "
            "another --out, or start again with --force"
        )


def _encode_shards(
    encoders: EncoderPool, source: TextSource, stamp: Stamp, out: Path, plan: EncodePlan, progress: ProgressListener
) -> tuple[ShardRecord, ...]:
    """Return the records of all shards. Finished shards are kept, the others are encoded and written as they arrive."""
    numbers = range(-(-plan.texts // plan.shard_texts))
    done = {number: shard for number in numbers if (shard := _read_record(out, plan, number)) is not None}
    progress.start(plan.texts, sum(shard.texts for shard in done.values()))
    jobs = _jobs(source, plan.shard_texts, [number for number in numbers if number not in done])
    with closing(encoders.shards(plan, jobs, progress)) as shards:
        for encoded in shards:
            # If the input changed, the shard may contain other texts than planned, and a resumed run would keep it.
            _require_unchanged(source, stamp)
            done[encoded.number] = _write_shard(out, plan, encoded)
    return tuple(done[number] for number in numbers)


def _jobs(source: TextSource, size: int, numbers: list[int]) -> Iterator[ShardJob]:
    """Yield the texts of the shards with these ascending numbers, in one pass over the input where possible."""
    rows: Iterator[TextRow] = iter(())
    following = -1
    for number in numbers:
        first = number * size
        if number != following:
            rows = source.rows(first)
        following = number + 1
        shard_rows = list(islice(rows, size))
        ids = [first + i if row.id is None else row.id for i, row in enumerate(shard_rows)]
        yield ShardJob(number, first, [row.text for row in shard_rows], ids)


def _write_shard(out: Path, plan: EncodePlan, encoded: EncodedShard) -> ShardRecord:
    path = out / f"vectors-{encoded.number:05d}.{plan.layout}"
    atomic_file.write(path, encoded.content)
    shard = ShardRecord(
        name=path.name, texts=encoded.texts, tokens=encoded.tokens, cut=encoded.cut, file=SealedFile.from_path(path)
    )
    atomic_file.write(_record_path(out, encoded.number), msgspec.json.encode(shard))
    return shard


def _finish(out: Path, plan: EncodePlan, shards: tuple[ShardRecord, ...]) -> EncodeManifest:
    row = (plan.dimension // 8, "uint8") if plan.code is VectorCode.UBINARY else (plan.dimension, str(plan.code))
    manifest = sealed.seal(
        EncodeManifest(format=FORMAT, plan=plan, shards=shards, ids=SealedFile.from_path(out / IDS), row=row)
    )
    atomic_file.write(out / MANIFEST, sealed.to_bytes(manifest))
    _delete_work_files(out)
    return manifest


def _delete_work_files(out: Path) -> None:
    """Delete the plan, the records of the shards, and temporary files."""
    for path in (*out.glob("vectors-?????.json"), out / PLAN):
        path.unlink(missing_ok=True)
    _delete_temporary_files(out)


def _delete_temporary_files(out: Path) -> None:
    """Delete temporary files of killed runs. This run has the lock, so no other run is using them."""
    for path in (*out.glob(".vectors-*"), *out.glob(f".{IDS}.*"), *out.glob(f".{PLAN}.*"), *out.glob(f".{MANIFEST}.*")):
        path.unlink(missing_ok=True)


def _read_record(out: Path, plan: EncodePlan, number: int) -> ShardRecord | None:
    """Return the record of a finished shard, or None. The shard is hashed again: disks can fail between two runs."""
    try:
        shard = msgspec.json.decode(_record_path(out, number).read_bytes(), type=ShardRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    texts = min(plan.shard_texts, plan.texts - number * plan.shard_texts)
    return None if shard.texts != texts or sealed.problems(out, {shard.name: shard.file}, [shard.name]) else shard


def _record_path(out: Path, number: int) -> Path:
    return out / f"vectors-{number:05d}.json"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Allow one run per folder. The lock is released when the process ends, also by a crash.

    Raises UsageError if another run has the lock, or if `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder")
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
def _explain_disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except EmbedshipError as error:
        if isinstance(error.__cause__, OSError):
            raise EmbedshipError(
                f"{error}. Finished shards are kept: run the same command again to continue"
            ) from error
        raise
