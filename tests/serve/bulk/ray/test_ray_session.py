"""What of a run on Ray needs no Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_is_swallowed_still_counts(name: str) -> None:
    """As in a destructor, which cannot raise. In a process of its own, for it is sent signals."""
    code = (
        "import os, signal, sys\n"
        "from contextlib import suppress\n"
        "from embedship.serve.bulk.ray_session import Interrupts\n"
        "from embedship.files.atomic_folder import terminable\n"
        "with Interrupts() as interrupts, terminable():\n"
        "    interrupts.check()\n"
        f"    with suppress(KeyboardInterrupt): os.kill(os.getpid(), signal.{name})\n"
        "    try: interrupts.check()\n"
        "    except KeyboardInterrupt: sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60, check=False).returncode == 7
