"""Compile, cache and launch CUDA kernels, without a compiler being installed.

A kernel is a template in one of the ``.cu`` files of this folder. The first launch of an instance compiles it for the
device at hand with NVRTC, through NVIDIA's ``cuda-core``, and keeps the machine code on disk; later launches, and later
processes, load it. ``pip install 'swapnas[cuda12]'`` or ``'swapnas[cuda13]'``, as PyTorch's CUDA is, adds what is
needed. Before an op's kernels are used on a device, `nas.ops.kernels.self_test` runs them once on a few numbers.

``NAS_KERNELS`` chooses: ``auto`` (kernels for CUDA tensors where they can be had and work, plain PyTorch otherwise;
says once why not), ``cuda`` (a CUDA device without them is an error) or ``reference`` (plain PyTorch everywhere). With
any of them, what no kernel is written for takes plain PyTorch: float64, very large neighbourhoods (more than 49 taps),
and SPConv with channels first.

A launch goes to the current stream of its tensors' device and does not wait for it, as capturing in a CUDA graph needs;
a kernel has to be loaded before, by having run once. (`tests/ops/kernels/test_launch.py` asks that of a GPU.)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Compute capabilities that every kernel is compiled for in the tests; others of 7.5 and later are expected to work."""

DTYPES = {torch.float32: "float", torch.float16: "half_t", torch.bfloat16: "bfloat_t"}
"""What kernels compute on, and what the sources call it."""

SHARED_LIMIT = 48 * 1024
"""Bytes of shared memory that every block may use on every device."""

Argument: TypeAlias = "torch.Tensor | np.generic"
"""A tensor, passed as the address of its first element, or a number of the type that the kernel declares."""


@dataclass(frozen=True)
class Kernel:
    """An instance of a kernel template.

    Attributes:
        source: File in this folder, without ``.cu``.
        name: The template's name.
        parameters: Its template arguments, in C++.
    """

    source: str
    name: str
    parameters: tuple[str, ...]

    @property
    def expression(self) -> str:
        """The instance in C++."""
        return f"{self.name}<{', '.join(self.parameters)}>" if self.parameters else self.name


@dataclass(frozen=True)
class Launch:
    """How often a kernel runs.

    Attributes:
        grid: Blocks along x, y, z.
        block: Threads of a block along x, y, z; all kernels here want a product that is a multiple of 32.
        shared: Dynamic shared memory of a block, bytes.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int = 0


class Backend(Protocol):
    """Something that runs kernels."""

    def launch(self, kernel: Kernel, how: Launch, arguments: Sequence[Argument]) -> None:
        """Run `kernel`; tensors of the arguments are written in place."""


class KernelError(RuntimeError):
    """A kernel was asked for that cannot be compiled or run here."""

    failure_kind = "kernel"
    """For those who have to tell it from a fault of a module."""


def launch(kernel: Kernel, how: Launch, *arguments: Argument) -> None:
    """Run a kernel on the device of its tensors, on the current stream.

    Tensors are passed as they are: their layout is what the kernel expects, or it reads the wrong elements. A grid with
    no block is not launched.

    Raises:
        KernelError: The kernel does not compile, or cannot be launched.
    """
    if 0 in how.grid:
        return
    tensor = next(a for a in arguments if isinstance(a, torch.Tensor))
    backend = backend_for(tensor.device.type, tensor.device.index)
    assert backend is not None, "checked by `nas.ops.kernels.self_test.usable` before"
    backend.launch(kernel, how, arguments)


def mode() -> str:
    """Return the value of ``NAS_KERNELS``.

    Raises:
        ValueError: It is none of auto, cuda, reference.
    """
    value = os.environ.get("NAS_KERNELS") or "auto"
    if value not in ("auto", "cuda", "reference"):
        raise ValueError(f"NAS_KERNELS={value!r}: expected auto, cuda or reference")
    return value


def backend_for(device_type: str, index: int | None = None) -> Backend | None:
    """Return what runs kernels on a device, None where the reference does.

    Args:
        device_type: As ``torch.device.type``.
        index: As ``torch.device.index``.

    Raises:
        KernelError: ``NAS_KERNELS=cuda``, and a CUDA device cannot have them.
        ValueError: ``NAS_KERNELS`` is none of its values.
    """
    if device_type != "cuda":
        return None
    chosen = mode()
    if chosen == "reference":
        return None
    missing = unavailable() or _too_old(index)
    if not missing:
        return _cuda()
    if chosen == "cuda":
        raise KernelError(f"NAS_KERNELS=cuda, but {missing}")
    say_once(missing)
    return None


@functools.lru_cache(maxsize=1)
def unavailable() -> str:
    """Return why kernels cannot be compiled here, empty if they can. Needs no GPU, and does not look for one."""
    if torch.version.hip:
        return "this PyTorch is built for ROCm, and the kernels are CUDA"
    for package in ("cuda.core", "cuda.bindings"):
        try:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(package)
        except ModuleNotFoundError:
            return f"{package.replace('.', '-')} is not installed ({_install()})"
    try:
        _toolkit()
    except Exception as error:  # a broken driver or toolkit says so in many ways
        return (
            f"cuda-core cannot be used: {type(error).__name__}: {error} (PyTorch is built for CUDA "
            f"{torch.version.cuda}: {_install()})"
        )
    return ""


def _install() -> str:
    """Return the command that installs what kernels need with this PyTorch: its CUDA and theirs are of one version."""
    major = (torch.version.cuda or "13").partition(".")[0]
    return f"pip install 'swapnas[cuda{major}]'"


@functools.cache
def _too_old(index: int | None) -> str:
    """Return why kernels cannot be compiled for a device, empty if they can."""
    if not torch.cuda.is_available():
        return ""  # a fake tensor: nothing will run
    major, minor = torch.cuda.get_device_capability(index)
    name, known = torch.cuda.get_device_name(index), _toolkit()[2]
    if (major, minor) < (7, 5) or 10 * major + minor not in known:
        return f"{name} has compute capability {major}.{minor}: this NVRTC compiles for {known[0]} to {known[-1]}"
    return ""


@functools.cache
def say_once(missing: str) -> None:
    """Say why kernels are not used."""
    notify(
        f"{missing}: CUDA tensors take the plain PyTorch path of the ops, which is slower; "
        "set NAS_KERNELS=reference to choose that without a word"
    )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


notify: Callable[[str], None] = _warn
"""Called with what a user should know; a training process replaces it, where nobody reads warnings."""


# ---- compiling ------------------------------------------------------------------------------------------------------


@functools.cache
def source(name: str) -> str:
    """Return the text of ``NAME.cu`` with the shared header in place, so that it needs none of ours on disk."""
    folder = resources.files("nas.ops.kernels")
    text = (folder / f"{name}.cu").read_text("utf-8")
    common = (folder / "common.cuh").read_text("utf-8").replace("#pragma once\n", "")
    return text.replace('#include "common.cuh"\n', common)


@functools.lru_cache(maxsize=1)
def _toolkit() -> tuple[tuple[str, ...], str, tuple[int, ...]]:
    """Look for the compiler.

    Returns:
        The folders with CUDA's headers, what the machine code depends on beside its source, and the compute
        capabilities that it compiles for, times ten, in order.
    """
    import cuda.core  # noqa: F401  its first import must not happen in two threads at once
    from cuda.bindings import nvrtc
    from cuda.pathfinder import find_nvidia_header_directory

    headers = find_nvidia_header_directory("cudart")
    if headers is None:
        raise KernelError("CUDA's headers were not found")
    _, major, minor = nvrtc.nvrtcVersion()
    folders = [headers, *(str(p) for p in (Path(headers) / "cccl",) if p.is_dir())]
    version = (Path(headers) / "cuda_fp16.h").stat().st_size  # headers and compiler may be of different releases
    known = tuple(sorted(nvrtc.nvrtcGetSupportedArchs()[1]))
    described = f"nvrtc {major}.{minor} {version} cuda-core {importlib.metadata.version('cuda-core')}"
    return tuple(folders), described, known


def compile_kernel(kernel: Kernel, architecture: str, log: Any = None) -> tuple[str, bytes]:
    """Compile a kernel. Needs no GPU.

    Args:
        kernel: The instance.
        architecture: As ``sm_90``.
        log: Has ``write``, and is given what the compiler reports: registers, spills, shared memory.

    Returns:
        The name of the compiled function, and the machine code.

    Raises:
        KernelError: It does not compile; the message holds the compiler's.
    """
    from cuda.core import Program, ProgramOptions

    folders = _toolkit()[0]
    options = ProgramOptions(
        name=f"{kernel.source}.cu",
        arch=architecture,
        std="c++17",
        include_path=list(folders),
        ptxas_options=["-v"] if log is not None else None,
    )
    try:
        program = Program(source(kernel.source), "c++", options=options)
        compiled = program.compile("cubin", name_expressions=(kernel.expression,), logs=log)
    except Exception as error:  # cuda-core's own kinds vary between its releases
        raise KernelError(f"{kernel.expression} for {architecture}: {error}") from error
    name = compiled.symbol_mapping[kernel.expression]
    return name.decode() if isinstance(name, bytes) else str(name), bytes(compiled.code)


def cached_kernel(kernel: Kernel, architecture: str) -> tuple[str, bytes]:
    """Return `compile_kernel`'s result from the cache on disk, compiling and keeping it where it is not there.

    The key covers the source, the instance, the architecture and the compiler. A cache that cannot be read or written
    is done without.

    Raises:
        KernelError: As `compile_kernel`.
    """
    text = "\0".join((source(kernel.source), kernel.expression, architecture, _toolkit()[1]))
    path = cache_folder() / f"{kernel.name}-{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.cubin"
    with contextlib.suppress(OSError, ValueError):
        name, digest, code = path.read_bytes().split(b"\n", 2)
        if hashlib.sha256(code).hexdigest().encode() == digest:
            return name.decode(), code
    name_text, code = compile_kernel(kernel, architecture)
    kept = name_text.encode() + b"\n" + hashlib.sha256(code).hexdigest().encode() + b"\n" + code
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(kept)
            os.replace(scratch, path)
        except OSError:
            Path(scratch).unlink(missing_ok=True)
    return name_text, code


def cache_folder() -> Path:
    """Return where machine code is kept: ``kernels`` in $NAS_CACHE, or in the system's place for caches."""
    own = os.environ.get("NAS_CACHE")
    if own:
        return Path(own).expanduser() / "kernels"
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "swapnas" / "kernels"


# ---- launching ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _cuda() -> Backend:
    return _Cuda()


class _Stream:
    """A stream of PyTorch as cuda-core takes it: ``torch.cuda.Stream`` has this method from PyTorch 2.10 on only."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream.cuda_stream


class _Cuda:
    """Runs kernels on NVIDIA GPUs. Loaded code is kept by device, and the driver's form of a launch by ours."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Kernel, int], Any] = {}
        self._configs: dict[Launch, Any] = {}

    def launch(self, kernel: Kernel, how: Launch, arguments: Sequence[Argument]) -> None:
        from cuda.core import Device, LaunchConfig
        from cuda.core import launch as start

        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        index = torch.cuda.current_device() if device.index is None else device.index
        with torch.cuda.device(index):
            Device(index).set_current()  # on a new thread, PyTorch has not done so yet
            values = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
            try:
                function = self._loaded.get((kernel, index))
                if function is None:
                    function = self._loaded[kernel, index] = _load(kernel, index)
                config = self._configs.get(how)
                if config is None:
                    config = LaunchConfig(grid=how.grid, block=how.block, shmem_size=how.shared)
                    self._configs[how] = config
                start(_Stream(torch.cuda.current_stream(index)), config, function, *values)
            except KernelError:
                raise
            except Exception as error:  # cuda-core's own kinds vary between its releases
                raise KernelError(f"{kernel.expression}: {how}: {error}") from error


def _load(kernel: Kernel, index: int) -> Any:
    from cuda.core import ObjectCode

    major, minor = torch.cuda.get_device_capability(index)
    name, code = cached_kernel(kernel, f"sm_{major}{minor}")
    return ObjectCode.from_cubin(code).get_kernel(name)
