"""Fixtures for the ops: every test starts from the same random state, on one thread (the tensors are tiny)."""

import pytest
import torch


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
