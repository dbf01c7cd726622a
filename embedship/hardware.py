"""Hardware that this process may use: instruction sets, cores within affinity and cgroup quota, streams."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from embedship.bundle import MachineInfo

# Instruction sets that decide which variant is fast or right. Other CPU flags do not matter here.
_ISA = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
)


def machine() -> MachineInfo:
    """Return this machine's CPU, relevant instruction sets and usable cores."""
    cpu, flags = _cpuinfo()
    return MachineInfo(cpu=cpu, isa=tuple(flag for flag in _ISA if flag in flags), cores=cores())


def cores() -> float:
    """Return the CPU cores this process may use: the smaller of affinity mask and cgroup quota.

    ONNX Runtime and other libraries create one thread per core of the host, and the quota then throttles these threads.
    So embedship uses this number for every pool of threads.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_quotas(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def streams() -> int:
    """Return the number of streams: one single-threaded stream per core.

    Batches are small, so several threads inside one batch would wait for each other.
    """
    return max(1, int(cores()))


def _cpuinfo() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = first.get("model name", platform.machine())
    return name, set((first.get("flags") or first.get("Features") or "").split())


def _quotas(root: Path, membership: Path) -> list[float]:
    """Return the CPU quotas, in cores, of this process's cgroup and all its parents (cgroup v2 and v1)."""
    quotas = []
    for folder in _cgroups(root, membership):
        if (v2 := _read(folder / "cpu.max")) and not v2.startswith("max"):
            quota, period = v2.split()
            quotas.append(int(quota) / int(period))
        quota_us, period_us = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota_us and period_us and int(quota_us) > 0:
            quotas.append(int(quota_us) / int(period_us))
    return quotas


def _cgroups(root: Path, membership: Path) -> list[Path]:
    folders = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        cgroup = base / path.lstrip("/")
        folders += [cgroup, *(p for p in cgroup.parents if p.is_relative_to(base))]
    return folders


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
