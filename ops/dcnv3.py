"""DCNv3: deformable convolution with a softmax over its taps.

Paper: Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", CVPR
2023, https://arxiv.org/abs/2211.05778.
Origin: written from the formulas; layers are called as in OpenGVLab/InternImage (MIT), whose weights do not fit: the
norms and activations are others.

Deliberate differences:
    - The sum over points is `nas.ops.functional.dcnv4.dcnv4`, which is the same with its weights given: any device,
      with that operator's kernel on NVIDIA GPUs.
    - NCHW in and out, c1 to c2 channels, batch norm and activation follow, so that it stands in for Ultralytics'
      ``Conv``. ``output_proj`` has no bias, which batch norm would cancel.
    - What points are predicted from goes through Ultralytics' ``Conv``: batch norm (the authors' ``norm_layer="BN"``)
      and its activation, where their default is layer norm and GELU.
    - With a stride, offsets are predicted at the centres of the kernels; the authors' module cannot stride.
    - `group_width` channels share their points, or the largest divisor of c1 below it. No centre feature scale; the
      depthwise kernel is as large as the other, and the padding half of the kernel's reach.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.activation import activation
from nas.ops.deformable import DILATION, GROUP_WIDTH, OFFSET_SCALE, as_maps, projection
from nas.ops.functional.dcnv4 import dcnv4
from nas.ops.functional.sample import sample_macs
from nas.ops.registry import FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, check_least, divisor, odd_kernel
from nas.ops.warm_start import covariance, set_norm, trained

_FOCUS = 0.9
"""The weight of the tap that a group sees at the start; the others share the rest, so that all of them learn."""


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling, as for DCNv4."""
    assert isinstance(module, DCNv3)
    n, _, h, w = output.shape
    points = n * h * w * module.k**2
    return sample_macs(points * module.groups, inputs[0].shape[1] // module.groups)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Let a group see one tap, or the mean of all, and give it the channels for which that says most of the kernel.

    Weights that a softmax makes are above zero and add up to one; what a kernel needs beside that is the projections'.
    """
    assert isinstance(new, DCNv3)
    c1, c2, k, groups = new.input_proj.in_features, new.output_proj.out_features, new.k, new.groups
    layer = trained(old, c1, c2, k, new.s)
    taps, width = k * k, c1 // groups
    kernel = layer.weight.transpose(2, 3).flatten(2)  # taps along the width first, as the operator has them
    cov = covariance(k, kernel)
    other = (1 - _FOCUS) / max(taps - 1, 1)
    patterns = torch.cat((torch.full((1, taps), 1 / taps), torch.eye(taps) * (_FOCUS - other) + other)).to(kernel)
    # The channel matrices that go best with the mean, and then with each tap for what the mean has left.
    level = kernel @ cov @ patterns[0] / (patterns[0] @ cov @ patterns[0])
    rest = kernel - level.unsqueeze(2) * patterns[0]
    length = (patterns @ cov * patterns).sum(1)
    single = (rest @ cov @ patterns[1:].T / length[1:]).permute(2, 0, 1)
    _, scale, right = torch.linalg.svd(torch.cat((level.unsqueeze(0), single)))
    energy = nn.functional.pad(scale.square() * length.unsqueeze(1), (0, c1 - scale.shape[1]))
    best = energy.view(-1, groups, width).sum(2).flatten().topk(groups).indices
    m = patterns[best.div(groups, rounding_mode="floor")]  # (groups, K)
    value = right.reshape(-1, width, c1)[best].flatten(0, 1)
    # With these, the best output projection: least squares under the same assumption.
    each = m.repeat_interleave(width, 0)
    gram = (value @ value.T) * (each @ cov @ each.T)
    gram.diagonal().add_(1e-5 * gram.diagonal().mean() + 1e-12)
    seen = torch.einsum("oik,kj,ji->oj", kernel @ cov, each.T, value)
    output = torch.linalg.solve(gram, seen.T).T
    near = torch.einsum("oj,ji,jk->oik", output, value, each)

    new.input_proj.weight.copy_(value)
    new.input_proj.bias.zero_()
    new.output_proj.weight.copy_(output)
    back = 1 / new.offset_scale - new.dilation
    places = torch.arange(taps)
    offsets = torch.stack((places.div(k, rounding_mode="floor") - k // 2, places % k - k // 2), 1).flatten() * back
    for conv, bias in ((new.offset, offsets.repeat(groups)), (new.mask, m.log().flatten())):
        assert conv.bias is not None
        conv.weight.zero_()
        conv.bias.copy_(bias)
    set_norm(new.bn, *layer.moments(near.view(c2, c1, k, k).transpose(2, 3)), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        GROUP_WIDTH,
        OFFSET_SCALE,
        DILATION,
    ),
    paper="DCNv3, CVPR 2023, arXiv:2211.05778",
    summary="deformable convolution: groups of channels sampled at predicted points, softmax over the points",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the mean of the window or one tap a group, with the channels for which it says most of the kernel: "
    "off by about an eighth of the output's variance on a trained YOLOv8n",
)
@counts_macs(_macs)
class DCNv3(nn.Module):
    """Deformable convolution v3, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). ``t = dw_conv(x)`` (depthwise, batch norm,
    activation) predicts for every group and tap k an offset and, by softmax over the taps, a weight::

        y = act(bn(output_proj(sum_k m_k * input_proj(x)(s * p + offset_scale * (dilation * k + offset_k)))))

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        group_width: Channels that share their points: the largest divisor of c1 that is not above it.
        offset_scale: Scale of the grid and its offsets.
        dilation: Pixels from tap to tap, before they are scaled.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An even kernel, or a stride, width or dilation below 1.
    """

    dilation = 1  # of modules that were pickled before there was the argument

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        group_width: int = 16,
        offset_scale: float = 1.0,
        dilation: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        check_kernel("DCNv3", k, s)
        check_least("DCNv3", group_width=group_width, dilation=dilation)
        self.k = k
        self.s = s
        self.groups = c1 // divisor(group_width, c1)
        self.offset_scale = float(offset_scale)
        self.dilation = dilation
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
            pad=self.dilation * (self.k // 2),
            dilation=self.dilation,
            groups=self.groups,
            offset_scale=self.offset_scale,
        )
        out: torch.Tensor = self.act(self.bn(as_maps(self.output_proj(y), x)))
        return out
