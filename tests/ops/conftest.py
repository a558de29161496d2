"""Fixtures for the ops: every test starts from the same random state, on one thread (the tensors are tiny)."""

import pytest
import torch
from host_backend import COMPILER, Host

from nas.ops.functional import carafe, dcnv4, dysample, spconv
from nas.ops.kernels import runtime


@pytest.fixture(autouse=True)
def same_random_state():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def perturb():
    """Return a function that moves every parameter off its initial value, so that offsets and gates do something."""

    def move(module: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * std)
            for m in module.modules():
                if isinstance(m, torch.nn.BatchNorm2d):
                    m.running_mean.normal_(0, 0.2)
                    m.running_var.uniform_(0.7, 1.4)
        return module

    return move


@pytest.fixture(scope="session")
def host_programs(own_cache):
    """Return the folder of the host's programs, which all tests share."""
    return own_cache / "host-programs"


@pytest.fixture
def launched(monkeypatch):
    """Return a list of the names of all kernels that this test asks for, in order."""
    names = []
    for file in (carafe, dcnv4, dysample, spconv):

        def noted(kernel, *rest, launch=file.launch):
            names.append(kernel.name)
            launch(kernel, *rest)

        monkeypatch.setattr(file, "launch", noted)
    return names


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernels(request, host_programs, monkeypatch, launched):
    """Let the operators run their kernels, on the host under AddressSanitizer or on a GPU; return the device's name.

    Memory that an operator allocates without filling it is NaN. The test fails if no kernel runs.
    """
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")
        monkeypatch.setenv("NAS_KERNELS", "cuda")
    else:
        if COMPILER is None:
            pytest.skip("no g++ to compile the kernels for the host with")
        host = Host(host_programs)
        monkeypatch.setattr(runtime, "backend_for", lambda device_type, index=None: host)
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        plain = getattr(owner, name)

        def filled(*args, plain=plain, **kwargs):
            memory = plain(*args, **kwargs)
            return memory.fill_(float("nan")) if memory.is_floating_point() else memory

        monkeypatch.setattr(owner, name, filled)
    yield request.param if request.param == "cuda" else "cpu"
    assert launched, "no kernel ran"
