"""A file runs only where it computes what was verified."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from embedship.bundle import Bundle, Machine
from embedship.engine import require
from embedship.errors import MismatchError


def machine(*isa: str) -> Machine:
    return Machine(cpu="a test's CPU", isa=isa, cores=2)


@pytest.mark.parametrize(
    ("needs", "isa", "runs"),
    [
        ((), (), True),
        (("avx512_vnni", "avx_vnni", "asimd"), ("avx2", "avx_vnni"), True),
        (("avx512_vnni", "avx_vnni", "asimd"), ("avx2", "avx512f"), False),
        (("cuda",), ("avx2", "avx512_vnni"), False),
    ],
)
def test_a_variant_is_refused_where_it_was_not_verified(
    bundle: Path, needs: tuple[str, ...], isa: tuple[str, ...], runs: bool
) -> None:
    variant = msgspec.structs.replace(Bundle.open(bundle).manifest.variants[0], needs=needs)
    if runs:
        require(variant, machine(*isa))
    else:
        with pytest.raises(
            MismatchError, match=r"is for (cuda|avx512_vnni or .*), .* has avx2.*export again with a --target"
        ):
            require(variant, machine(*isa))
