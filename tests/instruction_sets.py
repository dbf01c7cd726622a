"""What cannot run if ONEDNN_MAX_CPU_ISA limits the instruction set of a CPU that has more."""

from __future__ import annotations

import os

import pytest

# On a CPU with AVX512, OpenVINO 2026.4.1 prepares weight-only int8 for AVX512, and oneDNN then has no such kernel
# ("could not create a primitive descriptor"). A default export leaves the variant out. See docs/platforms.md.
LIMITED_TO_AVX2 = os.environ.get("ONEDNN_MAX_CPU_ISA", "").startswith("AVX2")
runs_weight_only_int8 = pytest.mark.skipif(LIMITED_TO_AVX2, reason="OpenVINO cannot run weight-only int8 at this limit")
# 8-bit products of files that are made for VNNI overflow at AVX2. Of a small cross-encoder, int8 then fails its gate.
keeps_int8_for_vnni = pytest.mark.skipif(LIMITED_TO_AVX2, reason="int8 that is made for VNNI is left out at this limit")
