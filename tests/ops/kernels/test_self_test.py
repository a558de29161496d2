"""Kernels that cannot be used here: found out once, before a module is blamed."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

import nas.ops.families  # noqa: F401  its operators give the kernels their tests
from nas.ops.kernels import runtime, self_test
from nas.ops.kernels.runtime import KernelError
from nas.ops.kernels.self_test import SELF_TESTS, kernels_work

OPS = ("carafe", "dcnv4", "dysample", "spconv_blend")


class Failing:
    """A driver that cannot load a kernel."""

    def __init__(self) -> None:
        self.tried = 0

    def launch(self, kernel, how, arguments):
        self.tried += 1
        raise KernelError(f"{kernel.expression}: CUDA_ERROR_NO_BINARY_FOR_GPU")


class Wrong:
    """A driver that runs nothing."""

    def launch(self, kernel, how, arguments):
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.float32:
                argument.mul_(1.0)


@pytest.fixture
def gpu(monkeypatch):
    """Return what lets this machine have a GPU with a driver; the tests of kernels run on the CPU in its place."""

    def make(driver) -> None:
        monkeypatch.setenv("NAS_KERNELS", "auto")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(runtime, "backend_for", lambda device_type, index=None: driver)
        monkeypatch.setattr(self_test, "_FAILURES", {})
        for op, test in SELF_TESTS.items():
            monkeypatch.setitem(SELF_TESTS, op, lambda _device, test=test: test(torch.device("cpu")))

    runtime.say_once.cache_clear()
    yield make
    runtime.say_once.cache_clear()


def test_every_op_has_a_test():
    assert SELF_TESTS.keys() == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_working_kernels_pass(op, kernels):
    SELF_TESTS[op](torch.device(kernels))


@pytest.mark.parametrize("op", OPS)
def test_a_kernel_that_cannot_be_loaded_is_done_without(op, gpu):
    driver = Failing()
    gpu(driver)
    words = (
        rf"the CUDA kernels of {op} fail on cuda:0 \(KernelError: .*NO_BINARY_FOR_GPU\): CUDA tensors take the plain"
    )
    with pytest.warns(UserWarning, match=words):
        assert not self_test._available(op, "cuda", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not self_test._available(op, "cuda", 0)
    assert driver.tried == 1
    with pytest.warns(UserWarning, match="cuda:1"):  # another GPU may be able to
        assert not kernels_work(op, "cuda", 1)


def test_a_kernel_that_is_demanded_is_an_error(gpu, monkeypatch):
    gpu(Failing())
    monkeypatch.setenv("NAS_KERNELS", "cuda")
    with pytest.raises(KernelError, match="NAS_KERNELS=cuda, but the CUDA kernels of carafe fail on cuda:0"):
        kernels_work("carafe", "cuda", 0)


@pytest.mark.parametrize("op", OPS)
def test_wrong_results_are_noticed(op, gpu, monkeypatch):
    gpu(Wrong())
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, plain=plain, **more: plain(*args, **more).fill_(0))
    with pytest.warns(UserWarning, match=f"the CUDA kernels of {op} fail on cuda:0"):
        assert not kernels_work(op, "cuda", 0)


def test_the_test_is_under_none_of_its_callers_modes(gpu):
    seen = []
    gpu(Failing())
    SELF_TESTS["carafe"] = lambda _device: seen.append(
        (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), self_test.self_testing())
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert kernels_work("carafe", "cuda", 0)
    assert seen == [(False, False, True)]
    assert not self_test.self_testing()


def test_several_threads_test_once(gpu):
    tried = []
    gpu(Failing())
    SELF_TESTS["carafe"] = lambda _device: tried.append(threading.get_ident())
    threads = [threading.Thread(target=kernels_work, args=("carafe", "cuda", 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tried) == 1


def test_where_no_gpu_is_nothing_is_tested(monkeypatch):
    """A fake tensor is on a GPU that is not there."""
    monkeypatch.setitem(SELF_TESTS, "carafe", lambda _device: pytest.fail("tested"))
    assert torch.cuda.is_available() or kernels_work("carafe", "cuda", 0)
    assert kernels_work("carafe", "cpu", None)
