"""Every kernel compiles for every supported architecture, and keeps to registers. Needs no GPU."""

from __future__ import annotations

import pytest

from nas.ops.kernels import runtime
from nas.ops.kernels.resources import instances, resources, resources_of
from nas.ops.kernels.runtime import ARCHITECTURES, Kernel, KernelError

pytestmark = pytest.mark.skipif(bool(runtime.unavailable()), reason=runtime.unavailable() or "there")
KERNELS = instances()
NAMES = sorted({kernel.name for kernel in KERNELS})


def test_all_kernels_are_among_the_instances():
    declared = set()
    for name in {kernel.source for kernel in KERNELS}:
        text = runtime.source(name)
        declared |= {part.split("(")[0].strip() for part in text.split("__global__ void")[1:]}
    assert declared == set(NAMES)
    assert runtime.backend_for("cpu") is None  # what recorded them is gone


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiles_everywhere_without_spilling(name):
    found = resources([kernel for kernel in KERNELS if kernel.name == name])
    assert {architecture for _, architecture in found} == set(ARCHITECTURES)
    for (kernel, architecture), used in found.items():
        assert (used.spilled, used.stack) == (0, 0), f"{kernel.expression} on {architecture}: {used}"
        # Two blocks of 256 threads share a processor's 65,536 registers.
        assert used.registers <= 128, f"{kernel.expression} on {architecture}: {used}"


def test_what_does_not_compile_is_named():
    with pytest.raises(KernelError, match="carafe_forward<float> for sm_90"):
        resources_of(Kernel("carafe", "carafe_forward", ("float",)), "sm_90")
