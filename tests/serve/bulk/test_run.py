"""The verb `encode`: right vectors, whole files, and the same bytes however often it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship import Bundle, Encoder, stdlib_docs
from embedship.bundle import VectorCode
from embedship.codes import cosine, truncate_dimensions
from embedship.commands.main import run
from embedship.errors import EmbedshipError, EngineError, MissingExtra, UsageError
from embedship.packing import quantize_vectors
from embedship.serve.bulk import run as bulk_run
from embedship.serve.bulk.formats import OutputFormat
from embedship.serve.bulk.manifest import EncodeManifest, EncodeOptions, EncodePlan
from embedship.serve.bulk.run import encode
from embedship.serve.bulk.shards import EncodedShard, LocalEncoderPool, ProgressListener, ShardJob
from embedship.serve.bulk.source import InputColumns, open_source

TEXTS = [entry.summary for entry in stdlib_docs.entries(50)]
COLUMNS = InputColumns("text", "id")
SMALL = EncodeOptions(shard_texts=16)  # four shards, the last one short


class Silent:
    def __init__(self) -> None:
        self.total = self.done = self.texts = self.tokens = 0

    def start(self, texts: int, done: int) -> None:
        self.total, self.done = texts, done

    def encoded(self, texts: int, tokens: int) -> None:
        self.texts += texts
        self.tokens += tokens


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder.open(bundle, "openvino-int8", streams=1) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bulk") / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"doc-{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    return path


def go(
    encoder: Encoder,
    source: Path,
    out: Path,
    options: EncodeOptions = SMALL,
    watcher: Silent | None = None,
    force: bool = False,
) -> EncodeManifest:
    return encode(
        LocalEncoderPool(encoder), open_source(source, COLUMNS), COLUMNS, out, options, watcher or Silent(), force=force
    )


def loaded(out: Path, manifest: EncodeManifest) -> np.ndarray[Any, Any]:
    return np.concatenate([np.load(out / shard.name) for shard in manifest.shards])


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def clean(encoder: Encoder, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody stopped leaves."""
    out = tmp_path_factory.mktemp("clean") / "out"
    go(encoder, source, out)
    return out


def test_rows_are_those_of_the_python_door_in_order(encoder: Encoder, source: Path, clean: Path) -> None:
    watcher = Silent()
    manifest = go(encoder, source, clean, watcher=watcher)
    vectors = loaded(clean, manifest)
    assert cosine(vectors, encoder.encode(TEXTS)).min() >= 0.999
    ids = (clean / "ids.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in ids] == [f"doc-{i}" for i in range(len(TEXTS))]
    assert manifest.tokens == sum(encoder.tokenizer(TEXTS).lengths)
    assert [shard.texts for shard in manifest.shards] == [16, 16, 16, 2]
    assert (watcher.total, watcher.done, watcher.texts) == (50, 50, 0)  # a finished run encodes nothing


def test_the_watcher_is_told_of_every_text_and_token(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    watcher = Silent()
    manifest = go(encoder, source, tmp_path / "out", watcher=watcher)
    assert (watcher.texts, watcher.tokens) == (len(TEXTS), manifest.tokens)


@pytest.mark.parametrize("code", VectorCode)
def test_codes_are_the_bundles_own(
    encoder: Encoder, source: Path, clean: Path, tmp_path: Path, code: VectorCode
) -> None:
    manifest = go(encoder, source, tmp_path, EncodeOptions(code=code, shard_texts=16))
    found = loaded(tmp_path, manifest)
    floats = loaded(clean, go(encoder, source, clean))
    known = encoder.bundle.manifest
    assert np.array_equal(found, quantize_vectors(floats, code, known.pipeline, known.codes))
    assert (found.shape[1], str(found.dtype)) == manifest.row


def test_dimensions_cut_and_renormalise(encoder: Encoder, source: Path, clean: Path, tmp_path: Path) -> None:
    manifest = go(encoder, source, tmp_path, EncodeOptions(dimensions=64, shard_texts=16))
    assert np.array_equal(
        loaded(tmp_path, manifest), truncate_dimensions(loaded(clean, go(encoder, source, clean)), 64)
    )


KILLED = """
import os, signal, sys
from pathlib import Path
bundle, source, out, after = sys.argv[1:]
left = int(after)

def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(out):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

from embedship import Encoder
from embedship.serve.bulk.run import encode
from embedship.serve.bulk.manifest import EncodeOptions
from embedship.serve.bulk.shards import LocalEncoderPool
from embedship.serve.bulk.source import InputColumns, open_source
class Silent:
    def start(self, texts, done): pass
    def encoded(self, texts, tokens): pass
with Encoder.open(bundle, "openvino-int8", streams=1) as encoder:
    columns = InputColumns("text", "id")
    sys.addaudithook(hook)
    options = EncodeOptions(shard_texts=16)
    encode(LocalEncoderPool(encoder), open_source(Path(source), columns), columns, Path(out), options, Silent())
"""


def test_killed_at_any_point_a_run_ends_with_the_same_bytes(
    bundle: Path, source: Path, clean: Path, tmp_path: Path
) -> None:
    """SIGKILL before a random one of the steps that touch the folder, again and again until a run gets through."""
    draw = random.Random(4)
    out = tmp_path / "out"
    codes: list[int] = []
    while 0 not in codes and len(codes) < 12:
        after = draw.randint(4, 18) if len(codes) < 8 else 0  # 0: it is not killed
        command = [sys.executable, "-P", "-c", KILLED, str(bundle), str(source), str(out), str(after)]
        codes.append(subprocess.run(command, timeout=120, check=False).returncode)
    assert codes.count(-signal.SIGKILL) == len(codes) - 1 >= 3
    assert contents(out) == contents(clean)


def unfinished(encoder: Encoder, source: Path, out: Path) -> None:
    """A run that fails at its third shard, as if the engine did."""

    class Worn(Silent):
        def encoded(self, texts: int, tokens: int) -> None:
            super().encoded(texts, tokens)
            if self.texts > 40:
                raise EngineError("worn out")

    with pytest.raises(EngineError, match="worn out"):
        go(encoder, source, out, watcher=Worn())


def test_a_run_goes_on_where_it_failed(encoder: Encoder, source: Path, clean: Path, tmp_path: Path) -> None:
    unfinished(encoder, source, tmp_path)
    watcher = Silent()
    go(encoder, source, tmp_path, watcher=watcher)
    assert (watcher.done, watcher.texts) == (32, 18)
    assert contents(tmp_path) == contents(clean)


def test_a_shard_that_rotted_is_encoded_again(encoder: Encoder, source: Path, clean: Path, tmp_path: Path) -> None:
    unfinished(encoder, source, tmp_path)
    with (tmp_path / "vectors-00000.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    go(encoder, source, tmp_path)
    assert contents(tmp_path) == contents(clean)


@pytest.mark.parametrize("finished", [True, False])
def test_other_options_are_refused_and_nothing_changes(
    encoder: Encoder, source: Path, tmp_path: Path, finished: bool
) -> None:
    if finished:
        go(encoder, source, tmp_path)
    else:
        unfinished(encoder, source, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"code was 'float32', is 'int8'.*--force"):
        go(encoder, source, tmp_path, EncodeOptions(code=VectorCode.INT8, shard_texts=16))
    assert contents(tmp_path) == before


def test_another_input_is_refused(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    go(encoder, source, tmp_path / "out")
    other = tmp_path / "in.jsonl"
    other.write_text(source.read_text().replace("doc-1", "doc-x"))
    with pytest.raises(UsageError, match="input_sha256 was"):
        go(encoder, other, tmp_path / "out")


class Disturbed(LocalEncoderPool):
    """Its input is another one after the first shard, and it fails after the third."""

    def __init__(self, encoder: Encoder, disturb: Callable[[], object]) -> None:
        super().__init__(encoder)
        self._disturb = disturb

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], watcher: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        for number, shard in enumerate(super().shards(plan, jobs, watcher)):
            if number == 3:
                raise EngineError("worn out")
            yield shard
            if number == 0:
                self._disturb()


def test_texts_that_changed_meanwhile_are_never_taken_for_done(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    # Longer than what is read ahead, so that the other texts are met.
    lines = [json.dumps({"text": text, "note": "x" * 4_000}) + "\n" for text in TEXTS]
    path.write_text("".join(lines))
    go(encoder, path, tmp_path / "clean")
    disturbed = Disturbed(encoder, lambda: path.write_text("".join(reversed(lines))))
    with pytest.raises(UsageError, match=r"in\.jsonl changed while it was read"):
        encode(disturbed, open_source(path, COLUMNS), COLUMNS, tmp_path / "out", SMALL, Silent())
    path.write_text("".join(lines))
    watcher = Silent()
    go(encoder, path, tmp_path / "out", watcher=watcher)
    assert watcher.done == 16, "the shard before it"
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_file_that_goes_away_meanwhile_is_a_sentence(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(source, tmp_path / "in.jsonl"))
    with pytest.raises(UsageError, match=r"in\.jsonl no longer exists"):
        encode(Disturbed(encoder, path.unlink), open_source(path, COLUMNS), COLUMNS, tmp_path / "out", SMALL, Silent())


def test_a_shard_with_fewer_texts_than_planned_is_encoded_again(
    encoder: Encoder, source: Path, clean: Path, tmp_path: Path
) -> None:
    unfinished(encoder, source, tmp_path)
    sidecar = tmp_path / "vectors-00001.json"
    sidecar.write_text(sidecar.read_text().replace('"texts":16', '"texts":15'))
    watcher = Silent()
    go(encoder, source, tmp_path, watcher=watcher)
    assert watcher.done == 16
    assert contents(tmp_path) == contents(clean)


def test_bad_lines_are_named_before_anything_is_written(encoder: Encoder, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n\n{"text": 3}\nnonsense\n{"id": 1}\n{"text": "x", "id": 1.5}\n')
    with pytest.raises(
        UsageError,
        match=r"4 invalid lines: line 3: `text` is of type int.*line 4: .*line 5: `text` is missing.*"
        r"line 6: `id` is of type float",
    ):
        go(encoder, bad, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_a_line_without_a_bottom_is_a_sentence(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": "x", "deep": ' + "[" * 2000 + "]" * 2000 + "}\n")
    assert run(["encode", str(bundle), str(bad), "--out", str(tmp_path / "out"), "--variant", "openvino-int8"]) == 2
    assert "line 2: it is nested too deeply" in " ".join(capsys.readouterr().err.split())


def test_rows_without_an_id_get_their_number(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "id": 7}\n{"text": "c"}\n')
    go(encoder, tmp_path / "in.jsonl", tmp_path / "out")
    assert (tmp_path / "out" / "ids.jsonl").read_text() == "0\n7\n2\n"


def test_a_folder_of_somebody_else_stays(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="contains other files"):
        go(encoder, source, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(UsageError, match="contains other files"):
        go(encoder, source, tmp_path, force=True)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_force_deletes_nothing_before_all_is_checked(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    """Neither of a run that goes on at this moment, nor for a line that is refused."""
    out, bad = tmp_path / "out", tmp_path / "bad.jsonl"
    go(encoder, source, out)
    before = contents(out)
    with bulk_run.locked(out), pytest.raises(UsageError, match="another run writes to"):
        go(encoder, source, out, force=True)
    bad.write_text('{"text": 3}\n')
    with pytest.raises(UsageError, match="line 1"):
        go(encoder, bad, out, force=True)
    assert contents(out) == before


def test_two_runs_do_not_share_a_folder(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another run writes to"):
        go(encoder, source, tmp_path)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (EncodeOptions(dimensions=500), "this model has 1 to 384"),
        (EncodeOptions(dimensions=12, code=VectorCode.UBINARY), "not a multiple of 8"),
        (EncodeOptions(dimensions=64, code=VectorCode.INT8), "no int8 code for 64"),
        (EncodeOptions(prompt_name="nonsense"), "no prompt named 'nonsense'"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    encoder: Encoder, source: Path, tmp_path: Path, options: EncodeOptions, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        go(encoder, source, tmp_path / "out", options)


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(bundle: Path, source: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: it, too, fails in the middle of a write."""
    out = tmp_path / "out"
    line = [sys.executable, "-P", "-m", "embedship", "encode", str(bundle), str(source), "--out", str(out), "--json"]
    line += ["--variant", "openvino-int8"]
    full = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert full.returncode == 1
    assert re.search(
        r"vectors-00000.npy could not be written: .*run the same command again to continue",
        full.stderr.replace("\n", " "),
    )
    assert "Traceback" not in full.stderr
    again = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(again.stdout)
    assert (again.returncode, report["texts"], report["code"]) == (0, len(TEXTS), "float32")
    assert report["texts_per_second"] > 0
    assert sorted(contents(out)) == ["encode.json", "ids.jsonl", "vectors-00000.npy"]


def test_force_begins_anew(bundle: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["encode", str(bundle), str(source), "--out", str(tmp_path / "out"), "--variant", "openvino-int8"]
    assert run([*line, "--code", "float16"]) == 0
    assert run([*line, "--code", "ubinary"]) == 2
    assert run([*line, "--code", "ubinary", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["code"] == "ubinary"
    assert np.load(tmp_path / "out" / "vectors-00000.npy").shape == (len(TEXTS), 48)


def arrow() -> tuple[Any, Any]:
    return tuple(  # type: ignore[return-value]
        pytest.importorskip(name, reason="needs the extra [parquet]") for name in ("pyarrow", "pyarrow.parquet")
    )


def test_parquet_in_and_out(encoder: Encoder, source: Path, clean: Path, tmp_path: Path) -> None:
    pa, parquet = arrow()
    parquet.write_table(pa.table({"key": [f"doc-{i}" for i in range(50)], "body": TEXTS}), tmp_path / "in.parquet")
    columns = InputColumns("body", "key")
    options = EncodeOptions(layout=OutputFormat.PARQUET, shard_texts=16)
    out = tmp_path / "out"
    manifest = encode(
        LocalEncoderPool(encoder), open_source(tmp_path / "in.parquet", columns), columns, out, options, Silent()
    )
    table = pa.concat_tables([parquet.read_table(out / shard.name) for shard in manifest.shards])
    assert table["id"].to_pylist() == [f"doc-{i}" for i in range(50)]
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), loaded(clean, go(encoder, source, clean)))
    with pytest.raises(UsageError, match="no column 'text'; it has: key, body"):
        open_source(tmp_path / "in.parquet", COLUMNS)


def test_a_null_in_parquet_is_named_by_its_row(encoder: Encoder, tmp_path: Path) -> None:
    pa, parquet = arrow()
    parquet.write_table(pa.table({"text": ["a", None]}), tmp_path / "in.parquet")
    with pytest.raises(UsageError, match=r"in\.parquet, row 2: `text` is missing"):
        go(encoder, tmp_path / "in.parquet", tmp_path / "out")


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"\.\[parquet\]"):
        open_source(tmp_path / "in.parquet", COLUMNS)


def test_nan_is_written_nowhere(bundle: Path, encoder: Encoder, source: Path, tmp_path: Path) -> None:
    class Broken:
        streams, precision = 1, encoder.engine.precision

        def encode(self, batch: Any) -> Any:
            return encoder.engine.encode(batch) * np.nan

        def close(self) -> None:
            """The inner engine belongs to the fixture."""

    with (
        Encoder(Bundle.open(bundle), encoder.variant, encoder.tokenizer, Broken()) as broken,
        pytest.raises(EmbedshipError, match="the vector of text 0 has NaN"),
    ):
        go(broken, source, tmp_path)
    assert not list(tmp_path.glob("vectors-*"))


def test_the_page_names_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "bulk.md").read_text()
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    assert run(["encode", "--help"]) == 0
    assert named <= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def test_a_text_without_tokens_is_named_by_its_line(frameless: Path, tmp_path: Path) -> None:
    """As the server names it; a model without special tokens has no vector for it."""
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": "two"}\n{"text": " "}\n')
    with Encoder.open(frameless) as encoder:
        with pytest.raises(UsageError, match=r"in\.jsonl, line 4: the text is empty for this model: remove it"):
            encode(LocalEncoderPool(encoder), open_source(lines, COLUMNS), COLUMNS, tmp_path / "out", SMALL, Silent())
        with pytest.raises(UsageError, match="text 300 is empty for this model: leave it out"):
            encoder.encode(["some text"] * 300 + [""])
        lines.write_text('{"text": "one"}\n\n{"text": "two"}\n')
        encode(LocalEncoderPool(encoder), open_source(lines, COLUMNS), COLUMNS, tmp_path / "out", SMALL, Silent())
        assert np.load(tmp_path / "out" / "vectors-00000.npy").shape == (2, 384)


def test_a_model_with_special_tokens_has_a_vector_of_an_empty_text(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": ""}\n{"text": "two"}\n')
    encode(
        LocalEncoderPool(encoder),
        open_source(tmp_path / "in.jsonl", COLUMNS),
        COLUMNS,
        tmp_path / "out",
        SMALL,
        Silent(),
    )
    made = np.load(tmp_path / "out" / "vectors-00000.npy")
    assert cosine(made, encoder.encode(["", "two"])).min() > 0.99
