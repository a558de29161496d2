"""AKConv (later also LDConv): a convolution with any number of sampling points, which it moves.

Paper: Zhang et al., "AKConv: Convolutional Kernel with Arbitrary Sampled Shapes and Arbitrary Number of Parameters",
2023, https://arxiv.org/abs/2311.11587.
Origin: written from the formulas; CV-ZhangXin/AKConv carries no licence (none of it is here).

Deliberate differences:
    - A point outside of the image reads the nearest pixel of the border. The authors' four weights add up to 2 there,
      to 4 in the corners, and already on the last row and column.
    - The samples go through Ultralytics' ``Conv`` of kernel 1 on ``c1 * num_param`` channels, which ``fuse()`` folds.
      Its weight is the authors' ``conv.0.weight`` (c2, c1, num_param, 1), viewed as (c2, c1 * num_param, 1, 1).
    - Offsets learn at the rate of all else. (The authors slow them down by a hook that has no effect.)
    - Coordinates are float32 at least.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.functional.sample import centres, sample, sample_macs
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, check_least, odd_kernel
from nas.ops.warm_start import covariance, fitted, set_norm, trained


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling."""
    assert isinstance(module, AKConv)
    n, _, h, w = output.shape
    return sample_macs(n * h * w * module.num_param, inputs[0].shape[1])


def _start(new: nn.Module, old: nn.Module) -> None:
    """Put the points on the taps that say most of the trained kernel; points that are left over weigh nothing."""
    assert isinstance(new, AKConv)
    conv = new.conv.conv
    c1, c2, k, points = conv.in_channels // new.num_param, conv.out_channels, new.k, new.num_param
    layer = trained(old, c1, c2, k, new.s)
    taps = _best_taps(layer.weight, min(points, k * k))
    seen = torch.eye(k * k, device=layer.weight.device)[taps].view(-1, k, k)
    weight = fitted(layer.weight, seen)  # (c2, c1, T)
    conv.weight.zero_()
    conv.weight.view(c2, c1, points)[..., : len(taps)] = weight
    at = torch.cat((taps, taps[:1].expand(points - len(taps)))).to(new.rows)
    new.p_conv.weight.zero_()
    assert new.p_conv.bias is not None
    rows, columns = at.div(k, rounding_mode="floor") - k // 2, at % k - k // 2
    new.p_conv.bias.copy_(torch.cat((rows - new.rows, columns - new.columns)))
    near = (weight @ seen.flatten(1)).view_as(layer.weight)
    set_norm(new.conv.bn, *layer.moments(near), layer.gain, layer.bias)


def _best_taps(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Return the taps of a kernel (c2, c1, k, k), chosen one by one, that predict its sums best; in their order."""
    cov = covariance(weight.shape[3], weight)
    taps = weight.flatten(0, 1).flatten(1)
    shared = cov @ (taps.T @ taps) @ cov
    chosen: list[int] = []
    for _ in range(count):
        others = [t for t in range(len(cov)) if t not in chosen]
        gains = []
        for tap in others:
            index = torch.tensor([*chosen, tap], device=cov.device)
            gains.append(torch.linalg.solve(cov[index][:, index], shared[index][:, index]).trace())
        chosen.append(others[int(torch.stack(gains).argmax())])
    return torch.tensor(sorted(chosen), device=weight.device)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg("num_param", 5, "sampling points", low=1, high=25),
    ),
    paper="AKConv, 2023, arXiv:2311.11587",
    summary="convolution over any number of points, whose places it predicts",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the taps of the replaced kernel that say most of it: off by about a tenth of the output's variance on a "
    "trained YOLOv8n; from 9 points on exactly (3x3), but at the image's border",
)
@counts_macs(_macs)
class AKConv(nn.Module):
    """Convolution with any number of movable points, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). Point n of the output pixel (i, j) is at
    ``s * (i, j) + (n // b, n % b) + offset``, ``b`` the rounded root of the number of points; offsets come from a 3x3
    convolution, their biases start at random.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size of the layer that it stands for, odd: only its start looks at it.
        s: Stride.
        num_param: Number of points N.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, or a stride or number of points below 1.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, num_param: int = 5, act: bool | nn.Module = True
    ) -> None:
        super().__init__()
        check_kernel("AKConv", k, s)
        check_least("AKConv", num_param=num_param)
        self.k = k
        self.s = s
        self.num_param = num_param
        self.p_conv = nn.Conv2d(c1, 2 * num_param, 3, s, 1)
        nn.init.zeros_(self.p_conv.weight)
        self.conv = Conv(c1 * num_param, c2, 1, act=act)
        point, b = torch.arange(num_param), round(num_param**0.5)
        self.register_buffer("rows", point.div(b, rounding_mode="floor"), persistent=False)
        self.register_buffer("columns", point % b, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        rows, columns = self.p_conv(x).to(torch.promote_types(x.dtype, torch.float32)).chunk(2, 1)
        down, right = centres(rows, self.s)
        rows = rows + (down + self.rows.view(-1, 1, 1))
        columns = columns + (right + self.columns.view(-1, 1, 1))
        y: torch.Tensor = self.conv(sample(x, rows, columns, border=True).flatten(1, 2))
        return y
