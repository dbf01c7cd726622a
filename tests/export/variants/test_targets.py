"""Which int8 is right on which CPU, decided from Machine values alone."""

from __future__ import annotations

import pytest

from embedship.bundle import MachineInfo
from embedship.errors import UsageError
from embedship.export.variants import targets
from embedship.export.variants.targets import EXACT, HardwareTarget

ROME = ("avx2",)
SKYLAKE = ("avx2", "avx512f")
ICELAKE = ("avx2", "avx512f", "avx512_vnni")
ALDERLAKE = ("avx2", "avx_vnni")
GRAVITON = ("asimd", "asimddp")


def machine(*isa: str) -> MachineInfo:
    return MachineInfo(cpu="a test's CPU", isa=isa, cores=2)


@pytest.mark.parametrize(
    ("isa", "target"),
    [
        ((), HardwareTarget.AVX2),
        (ROME, HardwareTarget.AVX2),
        (SKYLAKE, HardwareTarget.AVX512),
        (ICELAKE, HardwareTarget.AVX512_VNNI),
        (ALDERLAKE, HardwareTarget.AVX512_VNNI),
        (GRAVITON, HardwareTarget.ARM64),
    ],
)
@pytest.mark.parametrize("asked", [HardwareTarget.AUTO, HardwareTarget.CUDA])
def test_auto_is_the_machine_that_exports(isa: tuple[str, ...], target: HardwareTarget, asked: HardwareTarget) -> None:
    assert targets.cpu(asked, machine(*isa)) is target


@pytest.mark.parametrize("target", [HardwareTarget.AVX2, HardwareTarget.AVX512])
@pytest.mark.parametrize("isa", [ROME, SKYLAKE, ICELAKE, ALDERLAKE, GRAVITON])
def test_seven_bits_are_right_everywhere_and_can_be_verified_everywhere(
    isa: tuple[str, ...], target: HardwareTarget
) -> None:
    assert targets.cpu(target, machine(*isa)) is target
    assert machine(*isa).meets(target.needs)


@pytest.mark.parametrize("target", [HardwareTarget.AVX512_VNNI, HardwareTarget.ARM64])
def test_eight_bits_are_verified_only_where_their_products_are_exact(target: HardwareTarget) -> None:
    for isa in (ICELAKE, ALDERLAKE, GRAVITON):
        assert targets.cpu(target, machine(*isa)) is target
    for isa in (ROME, SKYLAKE):
        assert not machine(*isa).meets(target.needs)
        with pytest.raises(UsageError, match=f"cannot verify int8 for {target}.*Use --target avx"):
            targets.cpu(target, machine(*isa))


def test_needs_are_alternatives() -> None:
    assert machine("avx2").meets(())
    assert machine("avx2", "avx_vnni").meets(EXACT)
    assert not machine("avx2", "avx512f").meets(EXACT)
    assert not machine("avx2", "avx512_vnni").meets(targets.GPU)
