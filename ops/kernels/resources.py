"""What the kernels take of a GPU, found without one: registers, spilled bytes and stack, as the assembler says."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from nas.ops.kernels import runtime
from nas.ops.kernels.runtime import ARCHITECTURES, Argument, Kernel, Launch


@dataclass(frozen=True)
class Resources:
    """What one thread of a kernel takes.

    Attributes:
        registers: 32-bit registers; a block of 256 threads can have at most 255 a thread.
        spilled: Bytes that are stored to memory for want of registers.
        stack: Bytes of local memory, for arrays that are not in registers.
        code: Size of the machine code, bytes.
    """

    registers: int
    spilled: int
    stack: int
    code: int


def resources_of(kernel: Kernel, architecture: str) -> Resources:
    """Compile a kernel and read the assembler's report.

    Raises:
        nas.ops.kernels.runtime.KernelError: It does not compile.
    """
    log = io.StringIO()
    _, code = runtime.compile_kernel(kernel, architecture, log)
    text = log.getvalue()

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        if found is None:
            raise runtime.KernelError(f"{kernel.expression}: the assembler does not report {pattern!r}: {text[:500]}")
        return int(found[1])

    return Resources(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes spill stores"),
        number(r"(\d+) bytes stack frame"),
        len(code),
    )


def resources(
    kernels: Sequence[Kernel], architectures: Sequence[str] = ARCHITECTURES
) -> dict[tuple[Kernel, str], Resources]:
    """Return the resources of every kernel on every architecture; two compile side by side.

    Raises:
        nas.ops.kernels.runtime.KernelError: One does not compile.
    """
    if missing := runtime.unavailable():
        raise runtime.KernelError(missing)
    pairs = [(kernel, architecture) for kernel in kernels for architecture in architectures]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(pairs, pool.map(lambda pair: resources_of(*pair), pairs), strict=True))


class Recorder:
    """A backend that notes which kernels would run, and runs none.

    Attributes:
        kernels: Those noted, each once, in order.
    """

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []

    def launch(self, kernel: Kernel, how: Launch, arguments: Sequence[Argument]) -> None:
        """Note `kernel`."""
        del how, arguments
        if kernel not in self.kernels:
            self.kernels.append(kernel)


def instances() -> list[Kernel]:
    """Return the kernels that the modules of this package launch: every dtype and memory format, defaults otherwise."""
    from nas.ops.functional.carafe import carafe
    from nas.ops.functional.dcnv4 import dcnv4
    from nas.ops.functional.dysample import dysample
    from nas.ops.spconv import SPConv

    recorder = Recorder()
    plain = runtime.backend_for
    runtime.backend_for = lambda device_type, index=None: recorder  # noqa: ARG005
    try:
        for dtype in runtime.DTYPES:
            _both_ways(lambda x, om: dcnv4(x, om, kernel=3, pad=1, groups=4), (1, 4, 4, 64), (1, 4, 4, 112), dtype)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                SPConv(64, 64)(torch.zeros(2, 64, 4, 4).contiguous(memory_format=torch.channels_last)).sum().backward()
            for layout in (torch.channels_last, torch.contiguous_format):
                _both_ways(lambda x, m: carafe(x, m, 5, 2), (1, 64, 4, 4), (1, 100, 4, 4), dtype, layout)
                _both_ways(lambda x, o: dysample(x, o, 2, 4), (1, 64, 4, 4), (1, 32, 4, 4), dtype, layout)
    finally:
        runtime.backend_for = plain
    return recorder.kernels


def _both_ways(
    op: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: tuple[int, ...],
    other: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    tensors = [torch.zeros(s, dtype=dtype).contiguous(memory_format=layout).requires_grad_() for s in (x, other)]
    op(*tensors).sum().backward()  # type: ignore[no-untyped-call]
