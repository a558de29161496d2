"""SPConv's blend: the reference and the operator. Paper and differences are with the module, `nas.ops.spconv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional import tiles as tiles_file
from nas.ops.functional.operator import counts_flops, once_differentiable, self_tested
from nas.ops.functional.tiles import THREADS, Layout, next_power, vector_width
from nas.ops.kernels.runtime import DTYPES, Argument, Kernel, Launch, launch
from nas.ops.kernels.self_test import usable


def spconv_blend(g: torch.Tensor, q: torch.Tensor, v: torch.Tensor, bn1: nn.Module, bn2: nn.Module) -> torch.Tensor:
    """Normalise two branches and blend them by their means.

    ::

        u = bn1(g + q),  w = bn2(v)
        p = sigmoid(mean over the pixels of u - mean over the pixels of w)      per image and channel
        y = p * u + (1 - p) * w

    On CUDA, channels last, two passes over the maps do it, and two more the gradient: the sums decide statistics and
    gate in closed form, where plain PyTorch takes a pass for each step. The gradient is deterministic. The norms'
    running statistics are updated as they would be.

    Args:
        g: (N, C, H, W), the grouped convolution.
        q: (N, C, H, W), what is added to it.
        v: (N, C, H, W), the other branch.
        bn1: Batch norm of the first branch.
        bn2: Batch norm of the second.

    Returns:
        (N, C, H, W), dtype of `g`.
    """
    if exporting() or not _fits(g, q, v, bn1, bn2):
        u, w = bn1(g + q), bn2(v)
        p = (u.mean((2, 3), keepdim=True) - w.mean((2, 3), keepdim=True)).sigmoid()
        # NCNN has no layer for lerp.
        return w + p * (u - w) if exporting() else torch.lerp(w, u, p)
    assert isinstance(bn1, nn.BatchNorm2d)
    assert isinstance(bn2, nn.BatchNorm2d)
    norms = [t for bn in (bn1, bn2) for t in (bn.weight, bn.bias)]
    running = [t for bn in (bn1, bn2) for t in (bn.running_mean, bn.running_var)]
    training = bn1.training
    y, _, _, statistics = spconv_blend_operator(g, q, v, *norms, *running, training, bn1.eps, bn2.eps)
    if training:
        count = v.numel() // v.shape[1]
        with torch.no_grad():
            for bn, (mean, var) in ((bn1, statistics[:2]), (bn2, statistics[2:])):
                assert bn.running_mean is not None
                assert bn.running_var is not None
                assert bn.num_batches_tracked is not None
                assert bn.momentum is not None
                bn.num_batches_tracked.add_(1)
                bn.running_mean.lerp_(mean, bn.momentum)
                bn.running_var.lerp_(var * (count / (count - 1)), bn.momentum)
    out: torch.Tensor = y
    return out


def _fits(g: torch.Tensor, q: torch.Tensor, v: torch.Tensor, *norms: nn.Module) -> bool:
    """Return whether the kernels compute this blend."""
    return (
        usable("spconv_blend", g, q, v)
        and g.dtype == q.dtype == v.dtype
        and all(Layout.of(t).last for t in (g, q, v))
        and all(type(bn) is nn.BatchNorm2d and bn.affine and bn.track_running_stats for bn in norms)
        and all(bn.momentum is not None and bn.weight.dtype == torch.float32 for bn in norms)
        and norms[0].training == norms[1].training
        and v.numel() // v.shape[1] > 1
    )


class Blend(NamedTuple):
    """What the operator returns.

    Attributes:
        y: (N, C, H, W), channels last.
        coefficients: (N, C, 4), float32: y = c0 * (g + q) + c1 * v + c2, and the gate p.
        means: (N, C, 2), float32: of g + q and of v, over the pixels.
        statistics: (4, C), float32: mean and variance of g + q, mean and variance of v, that the norms use.
    """

    y: torch.Tensor
    coefficients: torch.Tensor
    means: torch.Tensor
    statistics: torch.Tensor


@torch.library.custom_op("nas::spconv_blend", mutates_args=())
def spconv_blend_operator(
    g: torch.Tensor,
    q: torch.Tensor,
    v: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor,
    weight2: torch.Tensor,
    bias2: torch.Tensor,
    mean1: torch.Tensor,
    var1: torch.Tensor,
    mean2: torch.Tensor,
    var2: torch.Tensor,
    training: bool,
    eps1: float,
    eps2: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `spconv_blend`; returns a `Blend`. With `training`, the statistics are the batch's, else those given."""
    parameters = [weight1, bias1, weight2, bias2]
    n, c, h, w = g.shape
    if not usable("spconv_blend", g, q, v):
        return _reference(g, q, v, parameters, [mean1, var1, mean2, var2], training, (eps1, eps2))
    g, q, v = (Layout(last=True).dense(t) for t in (g, q, v))
    passes = _Passes(c, h * w, g, q, v)
    sums, coefficients, means, statistics = (
        torch.empty(size, dtype=torch.float32, device=g.device)
        for size in ((n, passes.splits, c, 4), (n, c, 4), (n, c, 2), (4, c))
    )
    y = Layout(last=True).new(g)
    passes.run("spconv_sums", n, g, q, v, sums, shared=4)
    tensors = (g, q, v, sums, *parameters, mean1, var1, mean2, var2, coefficients, means, statistics)
    passes.gate("spconv_gate", (DTYPES[g.dtype],), n, tensors, training, (eps1, eps2))
    passes.run("spconv_blend", n, g, q, v, coefficients, y)
    return y, coefficients, means, statistics


@spconv_blend_operator.register_fake
def _(g: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    n, c = g.shape[:2]
    small = [g.new_empty(size, dtype=torch.float32) for size in ((n, c, 4), (n, c, 2), (4, c))]
    return Layout(last=True).new(g), small[0], small[1], small[2]


@torch.library.custom_op("nas::spconv_blend_backward", mutates_args=())
def spconv_blend_backward(
    dy: torch.Tensor,
    g: torch.Tensor,
    q: torch.Tensor,
    v: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    coefficients: torch.Tensor,
    means: torch.Tensor,
    statistics: torch.Tensor,
    training: bool,
    eps1: float,
    eps2: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of g (and of q, which has the same), of v, and (4, C) those of the norms' parameters."""
    n, c, h, w = g.shape
    if not usable("spconv_blend", g, q, v):
        pull = torch.func.vjp(
            lambda *t: _reference(t[0], q, t[1], list(t[2:]), list(statistics), training, (eps1, eps2))[0],
            *(g, v, *parameters),
        )[1]
        dg, dv, *rest = pull(dy)
        last = Layout(last=True)
        return last.dense(dg), last.dense(dv), torch.stack(rest)
    dy, g, q, v = (Layout(last=True).dense(t.to(g.dtype)) for t in (dy, g, q, v))
    passes = _Passes(c, h * w, dy, g, q, v)
    sums, offsets, slopes, dparameters = (
        torch.empty(size, dtype=torch.float32, device=g.device)
        for size in ((n, passes.splits, c, 3), (n, c, 2), (2, c), (4, c))
    )
    da, dv = Layout(last=True).new(g), Layout(last=True).new(g)
    passes.run("spconv_backward_sums", n, dy, g, q, v, sums, shared=3)
    tensors = (sums, coefficients, means, statistics, *parameters, offsets, slopes, dparameters)
    passes.gate("spconv_backward_gate", (), n, tensors, training, (eps1, eps2))
    passes.run("spconv_backward_inputs", n, dy, g, q, v, coefficients, offsets, slopes, da, dv)
    return da, dv, dparameters


@spconv_blend_backward.register_fake
def _(_dy: torch.Tensor, g: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    last = Layout(last=True)
    return last.new(g), last.new(g), g.new_empty((4, g.shape[1]), dtype=torch.float32)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.arguments = inputs[11:]


def _backward(ctx: Any, dy: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    g, q, v, *rest = ctx.saved_tensors
    da, dv, dparameters = spconv_blend_backward(dy, g, q, v, rest[:4], *rest[4:], *ctx.arguments)
    return (da, da, dv, *dparameters.unbind(), *(None for _ in range(7)))


spconv_blend_operator.register_autograd(_backward, setup_context=_setup)
spconv_blend_backward.register_autograd(once_differentiable("spconv_blend"))


def _flops(g: Any, *_: Any, **__: Any) -> int:
    """One multiply-accumulate per output element (as the module's cost rule); twice that for the gradient."""
    return int(2 * math.prod(g))


counts_flops(spconv_blend_operator, _flops)
counts_flops(spconv_blend_backward, lambda _dy, g, *_, **__: 2 * _flops(g))


def _reference(
    g: torch.Tensor,
    q: torch.Tensor,
    v: torch.Tensor,
    parameters: list[torch.Tensor],
    running: list[torch.Tensor],
    training: bool,
    eps: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the operator in plain PyTorch, in float32 at least."""
    dtype = torch.promote_types(g.dtype, torch.float32)
    a, b = g.to(dtype) + q.to(dtype), v.to(dtype)
    if training:
        moments = [m for t in (a, b) for m in (t.mean((0, 2, 3)), t.var((0, 2, 3), correction=0))]
    else:
        moments = [r.to(dtype) for r in running]
    weight1, bias1, weight2, bias2 = parameters
    scale1, scale2 = weight1 * (moments[1] + eps[0]).rsqrt(), weight2 * (moments[3] + eps[1]).rsqrt()
    shift1, shift2 = bias1 - scale1 * moments[0], bias2 - scale2 * moments[2]
    means = torch.stack((a.mean((2, 3)), b.mean((2, 3))), -1)
    p = (scale1 * means[..., 0] + shift1 - scale2 * means[..., 1] - shift2).sigmoid()
    coefficients = torch.stack((p * scale1, (1 - p) * scale2, p * shift1 + (1 - p) * shift2, p), -1)
    alpha, beta, delta = (coefficients[..., i, None, None] for i in range(3))
    y = Layout(last=True).dense((alpha * a + beta * b + delta).to(g.dtype))
    return y, coefficients, means, torch.stack(moments)


def _kernels(tensors: list[torch.Tensor], weigh: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Run the kernels both ways, for the self-test."""
    y, *kept = spconv_blend_operator(*tensors, True, 1e-3, 1e-3)
    dy, parameters = weigh(y), tensors[3:7]
    da, dv, dparameters = spconv_blend_backward(dy, *tensors[:3], parameters, *kept, True, 1e-3, 1e-3)
    return [y, da, da, dv, *dparameters.unbind()]


self_tested(
    spconv_blend_operator,
    _kernels,
    lambda g, q, v, *rest: _reference(g, q, v, list(rest[:4]), list(rest[4:]), True, (1e-3, 1e-3))[0],
    [(1, 8, 4, 4)] * 3 + [(8,)] * 8,
    last=True,
)


class _Passes:
    """How the kernels of spconv.cu go over maps (N, C, pixels), channels last."""

    def __init__(self, channels: int, pixels: int, *maps: torch.Tensor) -> None:
        self.channels = channels
        self.pixels = pixels
        self.width = vector_width(channels, *maps)
        self.across = min(32, next_power(-(-channels // self.width)))
        self.down = THREADS // self.across
        # Parts of an image: each thread has some 16 pixels, so that all parts together fill a GPU.
        self.splits = max(1, min(pixels // (16 * self.down), 256))

    def run(self, name: str, images: int, *tensors: torch.Tensor, shared: int = 0) -> None:
        """Run a pass; `shared` values of every channel are summed in shared memory."""
        chunks = -(-self.channels // (self.across * self.width))
        launch(
            Kernel("spconv", name, (DTYPES[tensors[0].dtype], str(self.width))),
            Launch(
                (chunks, self.splits, min(images, tiles_file.GRID)),
                (self.across, self.down, 1),
                shared * self.width * self.across * self.down * 4,
            ),
            *tensors,
            np.int64(images),
            *self._sizes(),
        )

    def gate(
        self,
        name: str,
        parameters: tuple[str, ...],
        images: int,
        tensors: tuple[torch.Tensor, ...],
        training: bool,
        eps: tuple[float, float],
    ) -> None:
        """Run what follows from the sums, a warp for a channel."""
        launch(
            Kernel("spconv", name, parameters),
            Launch((-(-self.channels // 4), 1, 1), (32, 4, 1)),
            *tensors,
            np.int64(images),
            *self._sizes(),
            np.bool_(training),
            np.float32(eps[0]),
            np.float32(eps[1]),
        )

    def _sizes(self) -> tuple[Argument, ...]:
        return np.int64(self.pixels), np.int32(self.channels), np.int32(self.splits)
