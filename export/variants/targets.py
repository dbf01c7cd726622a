"""What an export is for: the instruction set that decides which int8 is exact, and whether float16 makes sense."""

from __future__ import annotations

from enum import StrEnum

from embedship.bundle import MachineInfo
from embedship.errors import UsageError

# CPUs that add u8 x s8 products in 32 bits. Others add pairs of them in 16 bits, which overflow from 2 x 255 x 65 on.
EXACT = ("avx512_vnni", "avx_vnni", "asimd")
GPU = ("cuda",)


class HardwareTarget(StrEnum):
    """`auto` is the machine that exports."""

    AUTO = "auto"
    AVX2 = "avx2"
    AVX512 = "avx512"
    AVX512_VNNI = "avx512_vnni"
    ARM64 = "arm64"
    CUDA = "cuda"

    @property
    def exact(self) -> bool:
        """Whether int8 may use all of its range there; 7 bits of it are right everywhere."""
        return self in (HardwareTarget.AVX512_VNNI, HardwareTarget.ARM64)

    @property
    def needs(self) -> tuple[str, ...]:
        """What a file of int8 arithmetic for this instruction set asks of a CPU; any one of them will do."""
        return EXACT if self.exact else ()


def cpu(target: HardwareTarget, machine: MachineInfo) -> HardwareTarget:
    """The instruction set that int8 files are made for: the named one, or that of `machine` for `auto` and `cuda`.

    Raises UsageError where `machine` would compute something else than the CPUs the files are for: what cannot be
    compared with the checkpoint here must not be shipped from here.
    """
    here = _of(machine)
    wanted = here if target in (HardwareTarget.AUTO, HardwareTarget.CUDA) else target
    if not machine.meets(wanted.needs):
        raise UsageError(
            f"{machine.cpu} cannot verify int8 for {wanted}: its 8-bit products overflow where those of {wanted} do "
            f"not, so nothing measured here would hold there. Take --target {here}, which is right on both, or "
            f"export on a machine with one of {', '.join(EXACT)}"
        )
    return wanted


def _of(machine: MachineInfo) -> HardwareTarget:
    """AVX-VNNI without AVX-512 computes the same as AVX512-VNNI, from the same file."""
    if "asimd" in machine.isa:
        return HardwareTarget.ARM64
    if {"avx512_vnni", "avx_vnni"} & set(machine.isa):
        return HardwareTarget.AVX512_VNNI
    return HardwareTarget.AVX512 if "avx512f" in machine.isa else HardwareTarget.AVX2
