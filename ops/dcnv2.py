"""DCNv2: a convolution whose taps are moved and weighted by what it sees.

Paper: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019,
https://arxiv.org/abs/1811.11168.
Origin: written from the formulas; what is sampled equals torchvision's ``deform_conv2d`` (BSD-3-Clause), which neither
exports to ONNX at the opsets that Ultralytics uses nor runs under CPU autocast.

Deliberate differences:
    - Batch norm and activation follow, so that it stands in for Ultralytics' ``Conv``. All channels share their points
      (mmcv's ``deform_groups=1``).
    - The samples go through Ultralytics' ``Conv`` of kernel 1 on ``c1 * k * k`` channels, which ``fuse()`` folds. Its
      weight is the usual (c2, c1, k, k), viewed as (c2, c1 * k * k, 1, 1).
    - Coordinates are float32 at least.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.functional.sample import centres, sample, sample_macs
from nas.ops.registry import FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, odd_kernel
from nas.ops.warm_start import set_norm, trained


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling; the taps' weights are part of their corners'."""
    assert isinstance(module, DCNv2)
    n, _, h, w = output.shape
    return sample_macs(n * h * w * module.k**2, inputs[0].shape[1])


def _start(new: nn.Module, old: nn.Module) -> None:
    """Take the trained kernel twice, for every tap starts at its place with the weight 1 / 2."""
    assert isinstance(new, DCNv2)
    conv = new.conv.conv
    layer = trained(old, conv.in_channels // new.k**2, conv.out_channels, new.k, new.s)
    conv.weight.copy_(2 * layer.weight.flatten(1)[:, :, None, None])
    assert new.conv_offset_mask.bias is not None
    for parameter in (new.conv_offset_mask.weight, new.conv_offset_mask.bias):
        parameter.zero_()
    set_norm(new.conv.bn, layer.mean, layer.var, layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride")),
    paper="DCNv2, CVPR 2019, arXiv:1811.11168",
    summary="deformable convolution: taps with predicted places and weights, a full kernel over them",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the replaced layer exactly",
)
@counts_macs(_macs)
class DCNv2(nn.Module):
    """Modulated deformable convolution, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). With taps k, their places and weights from a
    convolution of the same kernel that starts at zero::

        y(p) = act(bn(sum_k W_k x(s * p + k + offset_k(p)) * sigmoid(mask_k(p))))

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, or a stride below 1.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_kernel("DCNv2", k, s)
        self.k = k
        self.s = s
        self.conv_offset_mask = nn.Conv2d(c1, 3 * k * k, k, s, k // 2)
        for parameter in self.conv_offset_mask.parameters():
            nn.init.zeros_(parameter)
        self.conv = Conv(c1 * k * k, c2, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        taps = self.k**2
        predicted = self.conv_offset_mask(x)
        offsets = predicted[:, : 2 * taps].to(torch.promote_types(x.dtype, torch.float32))
        tap = torch.arange(taps, device=x.device).view(-1, 1, 1)
        down, right = centres(predicted, self.s)
        rows = offsets[:, ::2] + (down + tap.div(self.k, rounding_mode="floor") - self.k // 2)
        columns = offsets[:, 1::2] + (right + tap % self.k - self.k // 2)
        samples = sample(x, rows, columns, border=False) * predicted[:, 2 * taps :].sigmoid().unsqueeze(1)
        y: torch.Tensor = self.conv(samples.flatten(1, 2))
        return y
