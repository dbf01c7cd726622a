"""HardwareTarget: the instruction set to export for. It decides the range of int8, and whether float16 is useful."""

from __future__ import annotations

from enum import StrEnum

from embedship.bundle import MachineInfo
from embedship.errors import UsageError

# CPUs that add u8 x s8 products in 32 bits. Others add pairs in 16 bits, which overflow at 2 x 255 x 65 and above.
EXACT = ("avx512_vnni", "avx_vnni", "asimd")
GPU = ("cuda",)


class HardwareTarget(StrEnum):
    """Instruction set to export for. `auto` is that of the exporting machine."""

    AUTO = "auto"
    AVX2 = "avx2"
    AVX512 = "avx512"
    AVX512_VNNI = "avx512_vnni"
    ARM64 = "arm64"
    CUDA = "cuda"

    @property
    def exact(self) -> bool:
        """True if int8 may use its full range on this target. With 7 bits it is exact on every target."""
        return self in (HardwareTarget.AVX512_VNNI, HardwareTarget.ARM64)

    @property
    def needs(self) -> tuple[str, ...]:
        """CPU features that int8 files for this target require; any one of them is enough."""
        return EXACT if self.exact else ()


def cpu(target: HardwareTarget, machine: MachineInfo) -> HardwareTarget:
    """Return the instruction set that int8 files are made for: the named one, or that of `machine` for auto and cuda.

    Raises UsageError if `machine` would compute different vectors than the target CPUs, because the files could not be
    verified here.
    """
    isa = _of(machine)
    chosen = isa if target in (HardwareTarget.AUTO, HardwareTarget.CUDA) else target
    if not machine.meets(chosen.needs):
        raise UsageError(
            f"{machine.cpu} cannot verify int8 for {chosen}: its 8-bit products overflow where those of {chosen} do "
            f"not, so measurements on this machine would not be valid for {chosen}. Use --target {isa}, which is "
            f"correct on both, or export on a machine with one of {', '.join(EXACT)}"
        )
    return chosen


def _of(machine: MachineInfo) -> HardwareTarget:
    """Return the target of a machine. AVX-VNNI without AVX-512 gives the same results as AVX512-VNNI."""
    if "asimd" in machine.isa:
        return HardwareTarget.ARM64
    if {"avx512_vnni", "avx_vnni"} & set(machine.isa):
        return HardwareTarget.AVX512_VNNI
    return HardwareTarget.AVX512 if "avx512f" in machine.isa else HardwareTarget.AVX2
