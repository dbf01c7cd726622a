from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedship import hardware
from embedship.hardware import _quotas


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/app\n", {"pod/app/cpu.max": "150000 100000", "pod/cpu.max": "400000 100000"}, [1.5, 4.0]),
        ("0::/\n", {"cpu.max": "max 100000"}, []),
        (
            "4:cpu,cpuacct:/kube/x\n3:memory:/kube/x\n",
            {"cpu/kube/x/cpu.cfs_quota_us": "50000", "cpu/kube/x/cpu.cfs_period_us": "100000"},
            [0.5],
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
    ],
    ids=["v2 nested", "v2 unlimited", "v1", "v1 unlimited"],
)
def test_quotas_of_cgroups(tmp_path: Path, membership: str, files: dict[str, str], expected: list[float]) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert _quotas(tmp_path / "fs", tmp_path / "membership") == expected


def test_no_cgroup_means_no_quota(tmp_path: Path) -> None:
    assert _quotas(tmp_path, tmp_path / "absent") == []


def test_cores_never_exceed_the_affinity() -> None:
    assert 0 < hardware.cores() <= len(os.sched_getaffinity(0))
    assert 1 <= hardware.streams() <= max(1, hardware.cores())


def test_the_machine_is_described() -> None:
    machine = hardware.machine()
    assert machine.cpu
    assert machine.same_instructions(machine)


def test_a_smaller_affinity_makes_fewer_streams() -> None:
    """In a process of its own, because the narrowed affinity mask would affect other tests."""
    code = (
        "import os\nfrom embedship import hardware\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(hardware.cores() <= 1, hardware.streams())"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.stdout == "True 1\n", answer.stderr
