"""Fixtures for the ops: every test starts from the same random state, on one thread (the tensors are tiny)."""

import copy

import pytest
import torch
from host_backend import COMPILER, Host
from ultralytics.nn.tasks import BaseModel

from nas.ops.functional import carafe, dcnv4, dysample, spconv
from nas.ops.kernels import runtime
from nas.ops.registry import macs_rules


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
def host_programs(shared_cache):
    """Return the folder of the host's programs, which all tests share."""
    return shared_cache / "host-programs"


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


@pytest.fixture
def fused():
    """Return a function that fuses a copy of a module as Ultralytics fuses a model, and returns it."""

    class Model(BaseModel):
        def __init__(self, layer):
            super().__init__()
            self.model = torch.nn.Sequential(layer)

        def is_fused(self, thresh=0):
            return False

    def fuse(module: torch.nn.Module) -> torch.nn.Module:
        return Model(copy.deepcopy(module).eval()).fuse(verbose=False).model[0]

    return fuse


@pytest.fixture
def macs():
    """Return a function that counts a module's MACs on an input: its convolutions and linears, and what rules state."""

    def count(module: torch.nn.Module, x: torch.Tensor) -> int:
        rules, total = macs_rules(), [0]

        def add(m, inputs, output):
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear):
                channel = 1 if isinstance(m, torch.nn.Conv2d) else -1
                total[0] += output.numel() // output.shape[channel] * m.weight.numel()
            rule = next((rules[cls] for cls in type(m).__mro__ if cls in rules), None)
            total[0] += rule(m, inputs, output) if rule else 0

        handles = [m.register_forward_hook(add) for m in module.modules()]
        with torch.no_grad():
            module.eval()(x)
        for handle in handles:
            handle.remove()
        return total[0]

    return count
