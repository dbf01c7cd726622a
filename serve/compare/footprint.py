"""Peak memory of a process that opens a bundle and encodes texts.

It is measured in a separate process, because the heap of this process does not shrink after earlier work:
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
    """Return the peak memory in bytes, or None on a system without /proc. Raises EngineError if the process fails."""
    if not _STATUS.exists():
        return None
    command = [sys.executable, "-P", "-m", __name__, str(bundle.folder.resolve()), variant]
    try:
        answer = subprocess.run(
            command, input=msgspec.json.encode(texts), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"measuring the memory of {bundle.folder} took more than {_SECONDS} s: give --rounds 0 to skip it"
        ) from None
    if answer.returncode:
        last = answer.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise EngineError(f"the process that measures the memory of {bundle.folder} failed: {last}")
    return int(answer.stdout)


def parse_peak_memory(status: str) -> int:
    """Return VmHWM of /proc/self/status in bytes. Unlike getrusage, it does not include the parent's memory."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(bundle: str, variant: str) -> None:
    texts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    with Encoder.open(bundle, variant) as encoder:
        encoder.encode(texts)
    print(parse_peak_memory(_STATUS.read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
