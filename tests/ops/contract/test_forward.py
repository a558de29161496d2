"""What every registered module promises of its forward and its gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_cases import REDUNDANT, each, every_case, run, tensors


@every_case
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (1, 1), (1, 4)], ids=str)
def test_shape(case, size):
    module = case.build().eval()
    for n in (1, 2):
        assert tuple(run(module, case.inputs(n, *size)).shape) == case.shape(n, *size)


@every_case
@pytest.mark.parametrize("size", [(1, 3, 5), (2, 1, 1)], ids=str)
def test_trains_with_little(case, size):
    """A batch of one, and maps of one pixel; batch norm needs two values of a channel."""
    x = each(case.inputs(*size), torch.Tensor.requires_grad_)
    y = case.build().train()(x)
    assert tuple(y.shape) == case.shape(*size)
    y.square().sum().backward()
    for t in tensors(x):
        assert t.grad is not None
        assert t.grad.isfinite().all()


@every_case
def test_every_parameter_learns_within_two_steps(case):
    module = case.build().double().train()
    x = each(case.inputs(), torch.Tensor.double)
    target = torch.randn(case.shape(2, 6, 9), dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), 0.05) if any(True for _ in module.parameters()) else None
    asleep = {name for name, _ in module.named_parameters()}
    for _ in range(2 if optimizer else 0):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            if p.grad.abs().max() > 1e-10:
                asleep.discard(name)
        optimizer.step()
    assert {name for name in asleep if not name.endswith(REDUNDANT)} == set()


@every_case
def test_same_seed_same_result(case):
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        module, x = case.build(), each(case.inputs(), torch.Tensor.requires_grad_)
        y = module(x)
        y.sum().backward()
        results.append([y.detach(), *(p.grad for p in module.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@every_case
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)], ids=["half", "bfloat16"])
def test_half_precision(case, perturb, dtype, limit):
    """Error relative to the signal, rms. Rounding every layer costs about 2**-10 and 2**-7 a layer."""
    module, x = perturb(case.build()).eval(), case.inputs(2, 12, 9)
    expected = run(module, x)
    y = run(copy.deepcopy(module).to(dtype), each(x, lambda t: t.to(dtype)))
    assert y.dtype == dtype
    error = (y.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < limit


@every_case
def test_autocast(case):
    module, x = case.build().train(), each(case.inputs(), torch.Tensor.requires_grad_)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert tuple(y.shape) == case.shape(2, 6, 9)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def strided(t: torch.Tensor) -> torch.Tensor:
    """Return the same values in memory that is not dense."""
    n, c, h, w = t.shape
    big = torch.zeros(n, c + 3, 2 * h, 2 * w)
    big[:, 1 : c + 1, ::2, ::2] = t
    return big[:, 1 : c + 1, ::2, ::2]


@every_case
def test_layout_does_not_matter(case, perturb):
    module, x = perturb(case.build()).eval(), case.inputs()
    expected = run(module, x)
    last = each(x, lambda t: t.contiguous(memory_format=torch.channels_last))
    for other in (each(x, strided), last, each(x, lambda t: t.transpose(2, 3).contiguous().transpose(2, 3))):
        torch.testing.assert_close(run(module, other), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(module.to(memory_format=torch.channels_last), last), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_input_is_not_changed(case):
    module, x = case.build(), case.inputs()
    before = [t.clone() for t in tensors(x)]
    module(x)
    assert all(map(torch.equal, tensors(x), before))
