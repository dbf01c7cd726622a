"""An index is read in a process of its own before a running server reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from embedship.errors import UnsafeError
from embedship.serve.devices import process
from embedship.serve.service import index_trial


def test_an_index_that_can_be_read_is_let_through(bundle: Path, index_folder: Path) -> None:
    index_trial.demand_readable(bundle, index_folder)


def test_what_it_only_refuses_is_the_server_s_to_explain(bundle: Path, tmp_path: Path) -> None:
    index_trial.demand_readable(bundle, tmp_path)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("import time; time.sleep(600)", "was not read within 2 s"),
    ],
)
def test_what_kills_or_holds_the_process_is_refused(
    code: str, sentence: str, bundle: Path, index_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In FAISS's place a module that does what a broken file makes a parser do."""
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {index_trial.sys.executable} -c '{code}'\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(index_trial.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UnsafeError, match=sentence):
        index_trial.demand_readable(bundle, index_folder, seconds=2 if "time" in code else 60)


def test_processes_of_ours_get_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, env, **more: given.update(env))
    secrets = ("EMBEDSHIP_API_KEYS", "EMBEDSHIP_ADMIN_KEYS", "EMBEDSHIP_WRITE_KEYS", "EMBEDSHIP_MILVUS_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "a-secret-of-the-tests")
    process._started("cpu:0", [])
    assert not given.keys() & set(secrets)
    assert given["PATH"] == os.environ["PATH"]
