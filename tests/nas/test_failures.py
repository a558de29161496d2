"""What a training failed of, by the words of its error."""

from __future__ import annotations

import re

import pytest

from nas.errors import failure_kind, failure_text
from nas.ops.kernels.runtime import KernelError

BUS_ERROR = (
    "DataLoader worker (pid 123) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
OUT_OF_MEMORY = (
    BUS_ERROR,
    "CUDA error: out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate enough memory or other resources",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1016",
    "DataLoader worker (pid 123) is killed by signal: Killed.",
    "unable to mmap 1843200 bytes from file </torch_1>: Cannot allocate memory (12)",
)
"""How PyTorch, CUDA's libraries, cuda-core and the system say it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            "memory",
        ),
        *((RuntimeError(text), "memory") for text in OUT_OF_MEMORY),
        (RuntimeError("DataLoader worker (pid(s) 123) exited unexpectedly"), "error"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "error"),
        (KernelError("carafe_forward<float> for sm_90: NVRTC_ERROR_COMPILATION"), "kernel"),
        (KernelError("carafe_forward<float>: CUDA_ERROR_OUT_OF_MEMORY: unable to allocate enough memory"), "memory"),
        (ValueError("something else"), "error"),
    ],
)
def test_kinds_of_failure(error, kind):
    assert failure_kind(error) == kind
    assert "\n" not in failure_text(error)


@pytest.mark.parametrize(
    "text",
    [BUS_ERROR, "unable to mmap 1843200 bytes from file </torch_1>: Cannot allocate memory (12)"],
)
def test_shared_memory_of_a_container_has_its_remedy(text):
    assert re.search(
        r"out of shared memory \(/dev/shm\).*--shm-size=8g or --ipc=host", failure_text(RuntimeError(text))
    )
