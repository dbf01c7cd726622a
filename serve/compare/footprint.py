"""Most memory of a process that opens a bundle and encodes texts: measured in one of its own, for heaps do not shrink.

python -m embedship.serve.compare.footprint BUNDLE VARIANT < texts.json
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.errors import EngineError

_STATUS = Path("/proc/self/status")
_SECONDS = 600


def measure_peak_memory(bundle: Bundle, variant: str, texts: Sequence[str]) -> int | None:
    """Bytes; None where the system does not say (it is read from /proc). Raises EngineError if the process fails."""
    if not _STATUS.exists():
        return None
    command = [sys.executable, "-P", "-m", __name__, str(bundle.folder.resolve()), variant]
    try:
        answer = subprocess.run(
            command, input=msgspec.json.encode(texts), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"a process that opened {bundle.folder} took more than {_SECONDS} s: --rounds 0") from None
    if answer.returncode:
        last = answer.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise EngineError(f"a process that opened {bundle.folder} to measure its memory failed: {last}")
    return int(answer.stdout)


def peak(status: str) -> int:
    """VmHWM, which begins at nothing in a new program; getrusage would tell the parent's."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(bundle: str, variant: str) -> None:
    texts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    with Encoder.open(bundle, variant) as encoder:
        encoder.encode(texts)
    print(peak(_STATUS.read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
