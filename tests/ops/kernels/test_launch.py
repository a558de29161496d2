"""How a kernel reaches the GPU: with stand-ins for the driver here, and on a real one where there is one."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nas.ops.functional.carafe import carafe
from nas.ops.functional.dcnv4 import dcnv4
from nas.ops.functional.dysample import dysample
from nas.ops.kernels import runtime, self_test
from nas.ops.kernels.runtime import Kernel, KernelError, Launch

needs_core = pytest.mark.skipif(bool(runtime.unavailable()), reason=runtime.unavailable() or "there")
SMALL = Kernel("dysample", "dysample_forward", ("float", "float", "1", "1", "int"))


class Driver:
    """Stands in for cuda-core, and for what PyTorch asks the driver.

    Attributes:
        calls: What was asked, in order.
    """

    def __init__(self, monkeypatch) -> None:
        import cuda.core

        self.calls: list[tuple] = []
        self.error: Exception | None = None
        monkeypatch.setattr(cuda.core, "Device", lambda i: SimpleNamespace(set_current=lambda: self.note("current", i)))
        monkeypatch.setattr(cuda.core, "LaunchConfig", lambda **how: how)
        monkeypatch.setattr(cuda.core, "launch", self.launch)
        monkeypatch.setattr(runtime, "_load", lambda kernel, index: self.note("load", index) or kernel.name)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        # As torch.cuda.Stream is up to PyTorch 2.9: without the protocol of cuda-core.
        monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=100 + index))
        monkeypatch.setattr(torch.cuda, "device", self.device)

    def note(self, *what) -> None:
        self.calls.append(what)

    def device(self, index):
        driver = self

        class Guard:
            def __enter__(self):
                driver.note("enter", index)

            def __exit__(self, *_):
                driver.note("leave", index)

        return Guard()

    def launch(self, stream, config, function, *values) -> None:
        from cuda.core._stream import Stream_accept

        Stream_accept(stream, allow_stream_protocol=True)  # raises for what the real one would refuse
        self.note("launch", stream.__cuda_stream__(), config, function, values)
        if self.error:
            raise self.error


@needs_core
def test_a_launch_is_on_the_tensors_device_and_current_stream(monkeypatch):
    driver = Driver(monkeypatch)
    cuda, tensor = runtime._Cuda(), torch.zeros(3)
    how = Launch((2, 1, 3), (32, 2, 1), 64)
    cuda.launch(SMALL, how, [tensor, np.int32(7), np.float32(0.5)])
    config = {"grid": (2, 1, 3), "block": (32, 2, 1), "shmem_size": 64}
    values = (tensor.data_ptr(), np.int32(7), np.float32(0.5))
    ran = ("launch", (0, 101), config, "dysample_forward", values)
    assert driver.calls == [("enter", 1), ("current", 1), ("load", 1), ran, ("leave", 1)]
    driver.calls.clear()
    cuda.launch(SMALL, how, [tensor, np.int32(7), np.float32(0.5)])
    assert driver.calls == [("enter", 1), ("current", 1), ran, ("leave", 1)]  # loaded once, made current every time


@needs_core
def test_a_launch_that_fails_names_the_kernel(monkeypatch):
    driver = Driver(monkeypatch)
    driver.error = ValueError("invalid device context")
    with pytest.raises(KernelError, match=r"dysample_forward<float.*grid=\(1, 1, 1\).*invalid device context"):
        runtime._Cuda().launch(SMALL, Launch((1, 1, 1), (32, 1, 1)), [torch.zeros(1)])


@needs_core
def test_the_numbers_are_of_types_that_the_driver_takes():
    from cuda.core._kernel_arg_handler import ParamHolder

    ParamHolder([5, np.int32(1), np.int64(2), np.float32(3), np.bool_(True)])


@needs_core
@pytest.mark.parametrize(("capability", "works"), [((7, 0), False), ((7, 5), True), ((9, 0), True), ((99, 0), False)])
def test_a_gpu_that_cannot_be_compiled_for_takes_the_reference(capability, works, monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    runtime._too_old.cache_clear()
    runtime.say_once.cache_clear()
    try:
        if works:
            assert runtime.backend_for("cuda", 0) is not None
            return
        words = rf"Some GPU has compute capability {capability[0]}\.{capability[1]}: this NVRTC compiles for 75 to \d+"
        with pytest.warns(UserWarning, match=words):
            assert runtime.backend_for("cuda", 0) is None
        monkeypatch.setenv("NAS_KERNELS", "cuda")
        with pytest.raises(KernelError, match=words):
            runtime.backend_for("cuda", 0)
    finally:
        runtime._too_old.cache_clear()
        runtime.say_once.cache_clear()


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def operands(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    monkeypatch.setenv("NAS_KERNELS", "cuda")
    shapes = ((2, 64, 12, 20), (2, 100, 12, 20), (2, 32, 12, 20), (2, 12, 20, 64), (2, 12, 20, 112))
    return [torch.randn(shape, device="cuda", dtype=torch.float16) for shape in shapes]


def all_ops(x, logits, offset, value, points):
    x, value = x.requires_grad_(), value.requires_grad_()
    outputs = [carafe(x, logits, 5, 2), dysample(x, offset, 2, 4), dcnv4(value, points, kernel=3, pad=1, groups=4)]
    return [*outputs, *torch.autograd.grad([y.float().square().sum() for y in outputs], (x, value))]


def same(results, expected):
    for result, true in zip(results, expected, strict=True):
        torch.testing.assert_close(result, true, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
def test_a_captured_graph_replays(operands):
    expected = all_ops(*operands)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = all_ops(*operands)
    for result in results:
        result.detach().fill_(float("nan"))
    graph.replay()
    same(results, expected)


@pytest.mark.gpu
def test_another_stream(operands):
    expected = all_ops(*operands)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = all_ops(*operands)
    torch.cuda.current_stream().wait_stream(stream)
    same(results, expected)


@pytest.mark.gpu
def test_a_new_thread(operands):
    """After the kernels are loaded, in a thread that has done nothing with CUDA yet."""
    expected, results = all_ops(*operands), []
    thread = threading.Thread(target=lambda: results.extend(all_ops(*operands)))
    thread.start()
    thread.join()
    same(results, expected)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu(operands):
    all_ops(*operands)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        all_ops(*operands)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_compiler_takes_it_for_a_constant_whether_kernels_are_there():
    """Marked without importing the compiler, in the way that importing it would."""
    assert vars(torch.compiler.assume_constant_result(lambda: True)) == vars(self_test._available)
