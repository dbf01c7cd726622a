"""Fetches a checkpoint by its hub id. Only this module uses the network, so it runs in its own process.

The process runs this module as a command. It prints {"folder": ...} or {"error": ...} and exits.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

from embedship.errors import UsageError
from embedship.export import silence

_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.py", "README.md")
_UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "*/checkpoint-*")


def is_id(text: str) -> bool:
    """Return True for "organisation/model" or "organisation/model@revision", unless the first part is a folder."""
    return bool(_ID.fullmatch(text)) and not Path(text.partition("/")[0]).is_dir()


def fetch(text: str, pickles: bool = False) -> Path:
    """Download the files that an export needs to the hub's cache. Returns the snapshot folder, named by its commit.

    Raises UsageError if there is no network, no such model or no such revision.
    """
    match = _ID.fullmatch(text)
    assert match, text
    patterns = (*_WANTED, "*.bin") if pickles else _WANTED
    command = [sys.executable, "-P", "-m", __name__, match["id"], match["revision"] or "main", *patterns]
    done = subprocess.run(command, env=silence.original_environment(), stdout=subprocess.PIPE, text=True, check=False)
    answer = json.loads(done.stdout or '{"error": "the download ended without an answer"}')
    if "error" in answer:
        raise UsageError(f"{text} is not a folder, and could not be fetched from the hub: {answer['error']}")
    return Path(answer["folder"])


def cached(name: str, revision: str) -> Path | None:
    """Return the cached snapshot of a branch, tag or commit. The network is not used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(_WANTED)))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _download(name: str, revision: str, patterns: list[str]) -> dict[str, str]:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_UNWANTED))
    except errors.LocalEntryNotFoundError:
        return {"error": "there is no network, or the hub does not answer. Give the path of a folder instead"}
    except errors.RevisionNotFoundError:
        return {"error": f"{name} has no revision {revision}"}
    except errors.RepositoryNotFoundError:
        return {"error": f"the hub has no model {name}, or only some users may read it (set HF_TOKEN)"}
    except Exception as error:  # the process ends here, and the HTTP client's error classes change with its version
        return {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0]}
    return {"folder": folder}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches both processes; the parent reports it
        print(json.dumps(_download(sys.argv[1], sys.argv[2], sys.argv[3:])))
