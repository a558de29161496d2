"""Devices of trainings: what ``--device`` means, and what the GPUs of this machine can do.

The process of the command makes no CUDA context: that would take half a gigabyte of a GPU, and occupy it where only one
process may use it. A process that ends at once answers in its place.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nas.errors import OptionError, one_line

CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as PyTorch counts them.

    Attributes:
        name: Its name.
        capability: Compute capability, major and minor.
        bf16: Whether it computes in bfloat16 natively; older ones emulate it, slowly, and autocast refuses them.
        code: Whether the installed PyTorch has code for it.
    """

    name: str
    capability: tuple[int, int]
    bf16: bool
    code: bool

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}"

    @property
    def unsupported(self) -> str:
        """What is missing for trainings; empty if nothing."""
        return "" if self.code else f"the installed PyTorch has no code for it ({self}): install another build"


@functools.lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine.

    Raises:
        OptionError: They cannot be asked.
    """
    import torch

    if not torch.cuda.is_available():  # counts devices, without a context
        return ()
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return tuple(pool.submit(query_gpus).result())
    except Exception as error:  # a driver fails in many ways
        raise OptionError(
            f"the GPUs of this machine do not answer ({one_line(error)}): --device cpu uses none"
        ) from None


def query_gpus() -> list[Gpu]:
    """Return the GPUs, from the process that will use them: this makes a CUDA context."""
    import torch

    built, found = torch.cuda.get_arch_list(), []
    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(index):
            properties = torch.cuda.get_device_properties(index)
            capability = (int(properties.major), int(properties.minor))
            bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        code = bool(torch.version.hip) or has_code(capability, built)
        found.append(Gpu(str(properties.name), capability, bf16, code))
    return found


def check_gpus() -> list[str]:
    """Run a convolution and the kernels' self-tests on each GPU that can be used; return the problems, a line each."""
    able = [index for index, gpu in enumerate(gpus()) if gpu.code]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return [f"GPU {index}: {why}" for index in able for why in pool.submit(gpu_problems, index).result()]
        except Exception as error:  # a process that dies, above all
            return [f"PROBLEM: {one_line(error)}"]


def gpu_problems(index: int) -> list[str]:
    """Return what does not run on a GPU, from a process that may use it."""
    import torch

    import nas.ops.families  # noqa: F401  its operators give the kernels their tests
    from nas.ops.kernels.self_test import kernel_failures

    device = torch.device("cuda", index)
    try:
        image, weight = torch.rand(1, 8, 16, 16, device=device), torch.rand(8, 8, 3, 3, device=device)
        torch.nn.functional.conv2d(image, weight, padding=1).sum().item()
        return kernel_failures(index)
    except Exception as error:  # of torch, CUDA or cuDNN
        return [f"PROBLEM: {one_line(error)}"]


def has_code(capability: tuple[int, int], built: list[str]) -> bool:
    """Return whether a PyTorch that is built for some architectures runs on a compute capability.

    Args:
        capability: Of the GPU, major and minor.
        built: As ``torch.cuda.get_arch_list()``: machine code (``sm_86``) runs on the same major version with this
            minor or a later one, with an ``a`` at the end on this very capability; ``compute_90`` is compiled for any
            later one when it is loaded.
    """
    own = 10 * capability[0] + capability[1]
    for name in built:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        version = int(digits)
        same = version == own if number.endswith("a") else version // 10 == capability[0] and version <= own
        if same or (kind == "compute" and number == digits and version <= own):
            return True
    return False


def choose_device(text: str | None) -> str:
    """Return the device that a text names: ``cpu``, or the number of a GPU.

    Args:
        text: As the user wrote it; None or empty is the first GPU that can be used, else the CPU.

    Raises:
        OptionError: It names no device, several, or one that is not there or cannot be used.
    """
    if not text:
        return next((str(k) for k, gpu in enumerate(gpus()) if gpu.code), CPU)
    name = plain_name(text)
    if name == CPU:
        return CPU
    several = [part for part in name.split(",") if part]
    if len(several) > 1 and all(part.isdigit() for part in several):
        both = "both" if len(several) == 2 else "all of them"
        raise OptionError(f"--device {text}: a training runs on one device; --workers {len(several)} uses {both}")
    if name.startswith("mps"):
        raise OptionError(
            f"--device {text}: GPUs of Apple are not supported (PyTorch lacks the gradients of some modules there); "
            "expected cpu"
        )
    there = gpus()
    here = "there is no CUDA GPU here" if not there else f"the GPUs here are {_numbered(there)}"
    if not name.isdigit():
        raise OptionError(f"--device {text}: expected cpu or the number of a GPU; {here}")
    if int(name) >= len(there):
        raise OptionError(f"--device {text}: {here}")
    if unsupported := there[int(name)].unsupported:
        raise OptionError(f"--device {text}: {unsupported}, or use --device cpu")
    return name


def plain_name(text: str) -> str:
    """Return a device's name in the form that is stored: ``cuda:1`` is ``1``, and ``cuda`` is ``0``."""
    name = text.strip().lower().replace(" ", "").replace("cuda:", "")
    if name == "cuda":
        return "0"
    return str(int(name)) if name.isascii() and name.isdigit() else name


def choose_precision(device: str, wanted: str | bool | None = None) -> str | bool:
    """Return the precision of trainings on a device: ``bf16``, or False for float32.

    Args:
        device: As `choose_device` returns it.
        wanted: What the user asked for; None is bf16 on a GPU that computes in it natively, else float32.

    Raises:
        OptionError: The device cannot train so.
    """
    native = device != CPU and gpus()[int(device)].bf16
    if wanted is None:
        return "bf16" if native else False
    if wanted == "bf16" and device != CPU and not native:
        raise OptionError(
            f"--precision bf16: GPU {device} ({gpus()[int(device)]}) has no native bfloat16 and would only emulate it; "
            "leave the option out, or give fp32"
        )
    return wanted


def assign_devices(device: str, workers: int, amp: str | bool = False) -> list[str]:
    """Return the device of each of several workers: the CPU for all, or GPUs in turn from the given one on.

    Args:
        device: As `choose_device` returns it.
        workers: Their number.
        amp: The precision, as `choose_precision` returns it: a GPU that cannot train so is left out.
    """
    if workers == 1 or device == CPU:
        return [device] * workers
    able = [k for k, gpu in enumerate(gpus()) if gpu.code and (gpu.bf16 or amp != "bf16")]
    start = able.index(int(device))
    return [str(able[(start + k) % len(able)]) for k in range(workers)]


def describe_device(device: str, amp: str | bool) -> str:
    """Return one line on where and in which precision trainings run, and why."""
    precision = "bf16" if amp == "bf16" else "fp32"
    if device != CPU:
        gpu = gpus()[int(device)]
        why = "" if gpu.bf16 else ", because it has no native bfloat16"
        return f"trainings run on GPU {device} ({gpu}) in {precision}{why}"
    unused = "; ".join(f"GPU {k}: {gpu.unsupported}" for k, gpu in enumerate(gpus()) if gpu.unsupported)
    return f"trainings run on the CPU in {precision}" + (f"; {unused}" if unused else "")


@functools.lru_cache(maxsize=1)
def processor() -> str:
    """Return the name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware(device: str) -> str:
    """Return what a device of this machine is: the GPU's name, or the processor's with its number of cores."""
    name = plain_name(device)
    there = gpus() if name.isdigit() else ()
    if name.isdigit() and int(name) < len(there):
        return there[int(name)].name
    cores = os.cpu_count() or 1
    return f"{processor()}, {cores} core{'' if cores == 1 else 's'}"


def _numbered(there: tuple[Gpu, ...]) -> str:
    return ", ".join(f"{k} ({gpu.name})" for k, gpu in enumerate(there))
