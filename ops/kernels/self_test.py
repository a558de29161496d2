"""Whether kernels are used for some tensors; before that, each op's kernels are tested once on their device.

A kernel may fail for reasons that packages do not show: a driver that is too old for the machine code, a compiler and
headers that do not fit together, a process without memory for one more module. So each op has a self-test: its kernels
run forward and backward on a few numbers, and the result is compared with plain PyTorch on the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from nas.ops.kernels import runtime

SELF_TESTS: dict[str, Callable[[torch.device], None]] = {}
"""By op: runs its kernels on a device, and raises where they fail or differ from plain PyTorch."""

_THREAD = threading.local()
_ONE_AT_A_TIME = threading.Lock()
_FAILURES: dict[tuple[str, int], str] = {}
"""By op and device: why its kernels are not used there; empty where they work."""


def usable(op: str, *tensors: torch.Tensor) -> bool:
    """Return whether an op's kernels run on these tensors: their device has them, and all are of dtypes that they take.

    Raises:
        KernelError: ``NAS_KERNELS=cuda``, and a CUDA device cannot have them, or they fail on it.
        ValueError: ``NAS_KERNELS`` is none of its values.
    """
    device = tensors[0].device
    return _available(op, device.type, device.index) and all(t.dtype in runtime.DTYPES for t in tensors)


def _available(op: str, device_type: str, index: int | None) -> bool:
    return runtime.backend_for(device_type, index) is not None and kernels_work(op, device_type, index)


# As `torch.compiler.assume_constant_result` marks it, which imports the compiler: half of the time that torch takes.
_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def kernels_work(op: str, device_type: str, index: int | None) -> bool:
    """Return whether an op's kernels work on a device, by a test that runs once in a process; says once why not.

    Raises:
        KernelError: They do not, and ``NAS_KERNELS=cuda``.
    """
    if device_type != "cuda" or self_testing() or not torch.cuda.is_available():
        return True  # the last: of a fake tensor, with which nothing will run
    key = op, torch.cuda.current_device() if index is None else index
    if key not in _FAILURES:
        with _ONE_AT_A_TIME:
            if key not in _FAILURES:
                _FAILURES[key] = _run_test(op, torch.device("cuda", key[1]))
    if not _FAILURES[key]:
        return True
    if runtime.mode() == "cuda":
        raise runtime.KernelError(f"NAS_KERNELS=cuda, but {_FAILURES[key]}")
    runtime.say_once(_FAILURES[key])
    return False


def kernel_failures(index: int) -> list[str]:
    """Test the kernels of all ops on a GPU, and return why which are not used; empty also where none are."""
    device = torch.device("cuda", index)
    if runtime.backend_for("cuda", index) is None:
        return []
    return [failure for op in SELF_TESTS if (failure := _run_test(op, device))]


def self_testing() -> bool:
    """Return whether this thread runs a self-test."""
    return getattr(_THREAD, "testing", False)


def _run_test(op: str, device: torch.device) -> str:
    """Run a self-test in a thread of its own, which is under no autocast, no inference mode and no dispatch mode."""
    found: list[str] = []

    def run() -> None:
        _THREAD.testing = True
        try:
            SELF_TESTS[op](device)
        except Exception as error:  # whatever it is, plain PyTorch may do without it
            line = next(iter(str(error).splitlines()), "")
            found.append(f"the CUDA kernels of {op} fail on {device} ({type(error).__name__}: {line})")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else ""
