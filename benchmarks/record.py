"""Metadata of every benchmark (machine, versions, commit) and storage of results."""

from __future__ import annotations

import datetime
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from embedship import hardware

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("embedship", "numpy", "tokenizers", "onnxruntime", "openvino", "faiss-cpu", "uvicorn")


def commit() -> str:
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "none"


def circumstances() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": msgspec.to_builtins(hardware.machine()),
        "commit": commit(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values), "rounds": len(values)}


def keep(name: str, result: dict[str, Any]) -> None:
    """Save the result and print it as the last line. A quick result is only printed."""
    if result.get("quick"):
        print(json.dumps(result))
        return
    RESULTS.mkdir(exist_ok=True)
    moment = result["date"][:16].replace(":", "")
    (RESULTS / f"{name}-{moment}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
