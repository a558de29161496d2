"""Sampling at points against four pixels and their weights, point by point."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nas.ops.functional.dcnv4 import dcnv4_reference
from nas.ops.functional.dysample import dysample_reference
from nas.ops.functional.sample import sample, sample_macs


def plain(x, rows, columns, border):
    h, w = x.shape[2:]
    y = torch.zeros(*x.shape[:2], *rows.shape[1:], dtype=x.dtype)
    for index in torch.cartesian_prod(*(torch.arange(s) for s in rows.shape)).tolist():
        b, t, i, j = index
        p, q = float(rows[b, t, i, j]), float(columns[b, t, i, j])
        if border:
            p, q = min(max(p, 0), h - 1), min(max(q, 0), w - 1)
        for r in (math.floor(p), math.floor(p) + 1):
            for s in (math.floor(q), math.floor(q) + 1):
                if 0 <= r < h and 0 <= s < w:
                    y[b, :, t, i, j] += x[b, :, r, s] * (1 - abs(p - r)) * (1 - abs(q - s))
    return y


@pytest.mark.parametrize("border", [True, False])
@pytest.mark.parametrize("size", [(5, 4), (8, 7), (1, 3), (1, 1)])
def test_equals_four_pixels_a_point(border, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64).mul(12).sub(3)
    torch.testing.assert_close(sample(x, rows, columns, border=border), plain(x, rows, columns, border))


@pytest.mark.parametrize("border", [True, False])
def test_whole_pixels_are_exact(border):
    x = torch.randn(1, 2, 11, 9)
    i, j = torch.meshgrid(torch.arange(11.0), torch.arange(9.0), indexing="ij")
    assert torch.equal(sample(x, i[None, None], j[None, None], border=border)[:, :, 0], x)


@pytest.mark.parametrize("border", [True, False])
def test_gradients(border):
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    rows, columns = (torch.rand(2, 1, 2, 3, 3, dtype=torch.float64) * 7 - 1.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: sample(*a, border=border), (x, rows, columns))


def test_at_and_beyond_the_border_a_point_has_nowhere_to_go():
    x = torch.randn(1, 2, 4, 4)
    rows = torch.tensor([3.0, 7.0]).view(1, 2, 1, 1).requires_grad_()
    sample(x, rows, torch.ones(1, 2, 1, 1), border=True).sum().backward()
    assert not rows.grad.any()


def test_half_precision_keeps_coordinates():
    x = torch.arange(600.0).expand(1, 1, 3, -1).to(torch.bfloat16)
    at = torch.full((1, 1, 1, 1), 300.5)
    assert float(sample(x, at * 0, at, border=True)) == pytest.approx(300.5, rel=2**-8)
    assert sample(x, at, at, border=True).dtype == torch.bfloat16


class Padded(TorchDispatchMode):
    """Notes the sizes of padded maps."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.constant_pad_nd.default:
            self.sizes.append(tuple(out.shape[-2:]))
        return out


@pytest.mark.parametrize("gradient", [False, True])
def test_on_a_gpu_maps_are_padded_where_a_gradient_can_see_it(gradient):
    """A map of 160 px would be one of 256, 2.56 times its memory."""
    with FakeTensorMode():
        x = torch.empty(1, 8, 160, 160, device="cuda")
        rows = torch.empty(1, 1, 8, 8, device="cuda", requires_grad=gradient)
        offset = torch.empty(1, 8, 160, 160, device="cuda", requires_grad=gradient)
        mask = torch.empty(1, 160, 160, 27, device="cuda", requires_grad=gradient)
        for call in (
            lambda: sample(x, rows, rows, border=False),
            lambda: dysample_reference(x, offset, 1, 4, 0.25, True),
            lambda: dcnv4_reference(x.permute(0, 2, 3, 1), mask, [3, 3], [1, 1], [1, 1], [1, 1], 1, 1.0, False),
        ):
            with Padded() as seen:
                call()
            assert seen.sizes == ([(256, 256)] if gradient else [])
            with torch.no_grad(), Padded() as seen:
                call()
            assert seen.sizes == []


def test_what_is_not_padded_differs_by_a_rounding():
    x, at = torch.randn(1, 3, 20, 20), torch.arange(20.0).view(1, 1, 1, 20)
    rows = at.transpose(2, 3).expand(1, 1, 20, 20)
    assert torch.equal(sample(x, rows, at.expand(1, 1, 20, 20), border=False)[:, :, 0], x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.ops.functional.sample.to_exact_size", lambda image, *_: image)
        found = sample(x, rows, at.expand(1, 1, 20, 20), border=False)[:, :, 0]
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)


def test_macs():
    assert sample_macs(10, 16) == 10 * (4 * 16 + 10)
