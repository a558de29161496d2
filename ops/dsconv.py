"""DSConv: dynamic snake convolution, along two lines that bend with what they follow.

Paper: Qi et al., "Dynamic Snake Convolution based on Topological Geometric Constraints for Tubular Structure
Segmentation", ICCV 2023, https://arxiv.org/abs/2307.08388. (Not "Distribution Shifting Convolution", of the same name.)
Origin: written from the formulas of the authors' later version, which they call DSConv_pro (YaoleiQi/DSCNet, MIT).
Their first one bends no line of three points, and reads the first image of a batch for all.

Deliberate differences:
    - One module holds what the authors put side by side: a plain convolution, a line along the width, a line along the
      height, concatenated, and a 1x1 convolution of the three.
    - One convolution predicts the bends of both lines. (The authors have two, and use half of each.)
    - Ultralytics' ``Conv``, that is batch norm and SiLU, where the authors have group norm and ReLU; for the bends
      batch norm and tanh, as in their first version. ``fuse()`` folds all of them.
    - Any device; coordinates are float32 at least.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.functional.sample import centres, sample, sample_macs
from nas.ops.gaussian import activated, again
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, odd_kernel_in_place
from nas.ops.warm_start import copy_conv, set_norm, trained_like


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling of both lines."""
    assert isinstance(module, DSConv)
    n, _, h, w = output.shape
    return sample_macs(2 * n * h * w * module.points, inputs[0].shape[1])


def _start(new: nn.Module, old: nn.Module) -> None:
    """Let the plain convolution be the trained layer, and the last one pass it; lines have a tenth of their weight."""
    assert isinstance(new, DSConv)
    layer = trained_like(old, new.conv)
    copy_conv(new.conv, layer)
    c2 = new.conv.conv.out_channels
    spread = layer.gain * layer.var.sqrt()
    slope, offset = again(new.mix.act, layer.bias, spread)
    weight = new.mix.conv.weight
    # The same whenever it is begun again.
    noise = torch.randn(c2, 2 * c2, generator=torch.Generator().manual_seed(0)).to(weight) / (2 * c2) ** 0.5
    weight.zero_()
    weight[:, :c2, 0, 0] = torch.eye(c2).to(weight)
    weight[:, c2:, 0, 0] = 0.1 * noise * spread.abs().to(weight).unsqueeze(1)
    mean, var = activated(layer.bias, spread, new.conv.act)[:2]
    set_norm(new.mix.bn, mean, var, slope, offset + slope * mean)


@register(
    rule="conv",
    kinds={"conv"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg("points", 9, "points of each line", low=3, high=15, odd=True),
        Arg("extend_scope", 1.0, "pixels by which a line may bend from one point to the next", low=0.1, high=4.0),
    ),
    paper="DSCNet, ICCV 2023, arXiv:2307.08388",
    summary="plain convolution beside two lines of points that bend step by step, for thin and winding shapes",
    requires="an odd kernel of 3 or more with stride 1",
    fits=odd_kernel_in_place,
    start=_start,
    starts="the replaced layer beside lines that have a tenth of their weight: "
    "off by a few hundredths of the output's variance on a trained YOLOv8n",
)
@counts_macs(_macs)
class DSConv(nn.Module):
    """Dynamic snake convolution; (N, c1, H, W) to (N, c2, H, W).

    A line of K points lies along the width (x) or the height (y) with its centre on the pixel. From the centre to
    either side, every point moves across the line by ``extend_scope * tanh(...)`` from where the one before it is.
    Points outside of the image read the nearest pixel of the border. Then
    ``y = mix(cat(conv(x), dsc_conv_x(x), dsc_conv_y(x)))``.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size of the plain convolution, odd.
        s: Stride; only 1.
        points: Points K of each line, odd.
        extend_scope: Pixels by which a line may bend from one point to the next.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel or number of points, or a stride.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        points: int = 9,
        extend_scope: float = 1.0,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        check_kernel("DSConv", k, s, strides=False)
        if points < 3 or points % 2 == 0:
            raise ValueError(f"DSConv: points={points}: expected an odd number of 3 or more")
        self.points = points
        self.extend_scope = float(extend_scope)
        self.conv = Conv(c1, c2, k, act=act)
        self.offset_conv = Conv(c1, 2 * points, 3, act=nn.Tanh())
        self.dsc_conv_x = Conv(c1 * points, c2, 1, act=act)
        self.dsc_conv_y = Conv(c1 * points, c2, 1, act=act)
        self.mix = Conv(3 * c2, c2, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        bends = self.offset_conv(x).to(torch.promote_types(x.dtype, torch.float32)) * self.extend_scope
        across_x, across_y = (self._bent(steps) for steps in bends.chunk(2, 1))
        rows, columns = centres(bends, 1)
        along = torch.arange(self.points, device=x.device).view(-1, 1, 1) - self.points // 2
        line_x = sample(x, rows + across_x, (columns + along).expand_as(across_x), border=True)
        line_y = sample(x, (rows + along).expand_as(across_y), columns + across_y, border=True)
        parts = (self.conv(x), self.dsc_conv_x(line_x.flatten(1, 2)), self.dsc_conv_y(line_y.flatten(1, 2)))
        y: torch.Tensor = self.mix(torch.cat(parts, 1))
        return y

    def _bent(self, steps: torch.Tensor) -> torch.Tensor:
        """Add up the steps (N, K, H, W) from the centre to either side; the centre's own does not count."""
        c = self.points // 2
        before = steps[:, :c].flip(1).cumsum(1).flip(1)
        return torch.cat((before, torch.zeros_like(steps[:, :1]), steps[:, c + 1 :].cumsum(1)), 1)
