"""DCNv2: a convolution whose taps are moved and weighted by what it sees.

Paper: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019,
https://arxiv.org/abs/1811.11168.
Origin: written from the formulas; what is sampled equals torchvision's ``deform_conv2d`` (BSD-3-Clause), which neither
exports to ONNX at the opsets that Ultralytics uses nor runs under CPU autocast.

Deliberate differences:
    - Batch norm and activation follow, so that it stands in for Ultralytics' ``Conv``; no bias, and padding by half of
      the kernel's reach. All channels share their points (mmcv's ``deform_groups=1``).
    - The samples go through Ultralytics' ``Conv`` of kernel 1 on ``c1 * k * k`` channels, which ``fuse()`` folds. Its
      weight is the usual (c2, c1 / groups, k, k), viewed as (c2, c1 / groups * k * k, 1, 1).
    - Coordinates are float32 at least.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.deformable import DILATION
from nas.ops.functional.sample import centres, sample, sample_macs
from nas.ops.registry import FromSlot, counts_macs, register
from nas.ops.slots import GROUPS, check_groups, check_kernel, check_least, odd_kernel
from nas.ops.warm_start import dense, set_norm, trained, within


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling; the taps' weights are part of their corners'."""
    assert isinstance(module, DCNv2)
    n, _, h, w = output.shape
    return sample_macs(n * h * w * module.k**2, inputs[0].shape[1])


def _start(new: nn.Module, old: nn.Module) -> None:
    """Take the trained kernel twice, for every tap starts with the weight 1 / 2; offsets undo a dilation."""
    assert isinstance(new, DCNv2)
    conv, k = new.conv.conv, new.k
    layer = trained(old, conv.in_channels // k**2, conv.out_channels, k, new.s)
    near = within(layer.weight, conv.groups)
    conv.weight.copy_(2 * near.flatten(1)[:, :, None, None])
    assert new.conv_offset_mask.bias is not None
    for parameter in (new.conv_offset_mask.weight, new.conv_offset_mask.bias):
        parameter.zero_()
    tap = torch.arange(k * k)
    places = torch.stack((tap.div(k, rounding_mode="floor") - k // 2, tap % k - k // 2), 1)
    new.conv_offset_mask.bias[: 2 * k * k].copy_(((1 - new.dilation) * places).flatten())
    set_norm(new.conv.bn, *layer.moments(dense(near, conv.groups)), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride"), DILATION, GROUPS),
    paper="DCNv2, CVPR 2019, arXiv:1811.11168",
    summary="deformable convolution: taps with predicted places and weights, a full kernel over them",
    requires="an odd kernel of 3 or more, channels that the groups divide",
    fits=odd_kernel,
    start=_start,
    starts="the replaced layer exactly, or what the groups hold of it",
)
@counts_macs(_macs)
class DCNv2(nn.Module):
    """Modulated deformable convolution, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). With taps k, their places and weights from a
    convolution of the same kernel and dilation that starts at zero::

        y(p) = act(bn(sum_k W_k x(s * p + dilation * k + offset_k(p)) * sigmoid(mask_k(p))))

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        dilation: Pixels from tap to tap.
        groups: Groups of channels of the kernel; all of them are sampled at the same points.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, a stride or dilation below 1, or groups that do not divide the channels.
    """

    dilation = 1  # of modules that were pickled before there was the argument

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        check_kernel("DCNv2", k, s)
        check_least("DCNv2", dilation=dilation)
        check_groups("DCNv2", groups, c1, c2)
        self.k = k
        self.s = s
        self.dilation = dilation
        self.conv_offset_mask = nn.Conv2d(c1, 3 * k * k, k, s, dilation * (k // 2), dilation)
        for parameter in self.conv_offset_mask.parameters():
            nn.init.zeros_(parameter)
        self.conv = Conv(c1 * k * k, c2, 1, g=groups, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        taps = self.k**2
        predicted = self.conv_offset_mask(x)
        offsets = predicted[:, : 2 * taps].to(torch.promote_types(x.dtype, torch.float32))
        tap = torch.arange(taps, device=x.device).view(-1, 1, 1)
        down, right = centres(predicted, self.s)
        rows = offsets[:, ::2] + (down + self.dilation * (tap.div(self.k, rounding_mode="floor") - self.k // 2))
        columns = offsets[:, 1::2] + (right + self.dilation * (tap % self.k - self.k // 2))
        samples = sample(x, rows, columns, border=False) * predicted[:, 2 * taps :].sigmoid().unsqueeze(1)
        y: torch.Tensor = self.conv(samples.flatten(1, 2))
        return y
