"""DCNv3: deformable convolution with a softmax over its taps.

Paper: Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", CVPR
2023, https://arxiv.org/abs/2211.05778.
Origin: written from the formulas; the names of layers are those of OpenGVLab/InternImage (MIT).

Deliberate differences:
    - The sum over points is `nas.ops.functional.dcnv4.dcnv4`, which is the same with its weights given: any device,
      with that operator's kernel on NVIDIA GPUs.
    - NCHW in and out, c1 to c2 channels, batch norm and activation follow, so that it stands in for Ultralytics'
      ``Conv``. ``output_proj`` has no bias, which batch norm would cancel.
    - What points are predicted from goes through Ultralytics' ``Conv``: batch norm (the authors' ``norm_layer="BN"``)
      and its activation, where their default is layer norm and GELU.
    - With a stride, offsets are predicted at the centres of the kernels; the authors' module cannot stride.
    - `group_width` channels share their points, or the largest divisor of c1 below it. No centre feature scale.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.activation import activation
from nas.ops.deformable import GROUP_WIDTH, OFFSET_SCALE, as_maps, projection
from nas.ops.functional.dcnv4 import dcnv4
from nas.ops.functional.sample import sample_macs
from nas.ops.registry import FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, check_least, divisor, odd_kernel


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling, as for DCNv4."""
    assert isinstance(module, DCNv3)
    n, _, h, w = output.shape
    points = n * h * w * module.k**2
    return sample_macs(points * module.groups, inputs[0].shape[1] // module.groups)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        GROUP_WIDTH,
        OFFSET_SCALE,
    ),
    paper="DCNv3, CVPR 2023, arXiv:2211.05778",
    summary="deformable convolution: groups of channels sampled at predicted points, softmax over the points",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
)
@counts_macs(_macs)
class DCNv3(nn.Module):
    """Deformable convolution v3, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). ``t = dw_conv(x)`` (depthwise, batch norm,
    activation) predicts for every group and tap k an offset and, by softmax over the taps, a weight::

        y = act(bn(output_proj(sum_k m_k * input_proj(x)(s * p + offset_scale * (k + offset_k)))))

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        group_width: Channels that share their points: the largest divisor of c1 that is not above it.
        offset_scale: Scale of the grid and its offsets.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An even kernel, or a stride or width below 1.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        group_width: int = 16,
        offset_scale: float = 1.0,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        check_kernel("DCNv3", k, s)
        check_least("DCNv3", group_width=group_width)
        self.k = k
        self.s = s
        self.groups = c1 // divisor(group_width, c1)
        self.offset_scale = float(offset_scale)
        taps = self.groups * k * k
        self.dw_conv = Conv(c1, c1, k, s, g=c1)
        self.offset = nn.Conv2d(c1, 2 * taps, 1)
        self.mask = nn.Conv2d(c1, taps, 1)
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.input_proj = projection(c1, c1)
        self.output_proj = projection(c1, c2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        t = self.dw_conv(x)
        taps = self.k**2
        offset = torch.unflatten(self.offset(t).permute(0, 2, 3, 1), 3, (self.groups, 2 * taps))
        mask = torch.unflatten(self.mask(t).permute(0, 2, 3, 1), 3, (self.groups, taps))
        points = torch.cat((offset, mask.softmax(4, torch.promote_types(mask.dtype, torch.float32))), 4)
        y = dcnv4(
            self.input_proj(x.permute(0, 2, 3, 1)),
            points.flatten(3),
            kernel=self.k,
            stride=self.s,
            pad=self.k // 2,
            groups=self.groups,
            offset_scale=self.offset_scale,
        )
        out: torch.Tensor = self.act(self.bn(as_maps(self.output_proj(y), x)))
        return out
