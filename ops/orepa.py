"""OREPA: six linear branches that are one kernel in every step of training.

Paper: Hu et al., "Online Convolutional Re-parameterization", CVPR 2022, https://arxiv.org/abs/2204.00826.
Origin: written from the formulas; state keys are those of JUGGHM/OREPA_CVPR2022 (Apache-2.0), but for ``idconv1``,
which is the weight of a layer here; the authors' is taken when it is loaded.

Deliberate differences:
    - 3x3 only. (The authors' prior is filled for 3x3 alone: their 1x1 fails, their 5x5 reads memory that nobody wrote.)
    - No dilation, and no other padding than 1. The inner channels of the chain of 1x1 and 3x3 are the authors' default:
      as many as the input's, twice as many from five groups on. Initial values are theirs without arguments.
    - The activation is Ultralytics' (SiLU); ``act=nn.ReLU()`` is the authors'.
    - Ultralytics' ``fuse()`` leaves one convolution with bias.
    - MACs are those of training: they hold the making of the kernel, once an image. After ``fuse()`` the convolution's
      own are left.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.registry import FromSlot, counts_macs, register
from nas.ops.reparam import Fusible, folded
from nas.ops.slots import GROUPS, check_groups, check_three, three
from nas.ops.warm_start import dense, set_norm, trained, within

_EXPANSION = 8
"""Depthwise kernels a channel in the branch of a depthwise convolution and a 1x1."""
_ROWS = (0.25, 0.25, 0.0, 0.5, 1.0, 0.5)
"""Initial weights of the branches: origin, average, prior, 1x1-3x3, 1x1, depthwise separable."""


def _macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the convolution with the computed kernel, and the two products that the kernel is made of."""
    assert isinstance(module, OREPA)
    if hasattr(module, "conv"):
        return 0  # fused: a child
    n, _, h, w = output.shape
    inner = module.weight_orepa_1x1_kxk_conv2.shape[1]
    return n * 9 * module.c1 // module.groups * module.c2 * (h * w + inner + _EXPANSION)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Let the plain branch make up for what the others give."""
    assert isinstance(new, OREPA)
    layer = trained(old, new.c1, new.c2, 3, new.s)
    new.weight_orepa_origin.zero_()
    new.vector.copy_(torch.tensor(_ROWS).unsqueeze(1).expand_as(new.vector))
    near = within(layer.weight, new.groups)
    new.weight_orepa_origin.copy_((near - new.kernel().float()) / _ROWS[0])
    set_norm(new.bn, *layer.moments(dense(near, new.groups)), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride"), GROUPS),
    paper="OREPA, CVPR 2022, arXiv:2204.00826",
    summary="six linear branches, merged into one 3x3 kernel in every step; fuse() leaves a plain convolution",
    requires="a 3x3 kernel, channels that the groups divide",
    fits=three,
    start=_start,
    starts="the replaced layer exactly, or what the groups hold of it",
)
@counts_macs(_macs)
class OREPA(Fusible):
    """Convolution with a kernel of six branches, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). With a weight ``v`` per branch and output channel::

        W = v0 * origin + v1 * avg_conv * mean + v2 * pfir_conv * prior + v3 * (conv2 after (I + idconv1))
            + v4 * w1x1 in the centre + v5 * (pointwise after depthwise)
        y = act(bn(conv(x, W)))

    ``prior`` is a cosine of the row in the first half of the output channels, of the column in the second.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size; only 3.
        s: Stride.
        groups: Groups of channels.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: Another kernel or stride, or groups that do not divide the channels.
    """

    groups = 1  # of modules that were pickled before there was the argument
    weight_orepa_avg_avg: torch.Tensor
    id_tensor: torch.Tensor
    weight_orepa_prior: torch.Tensor

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, groups: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_three("OREPA", k, s)
        check_groups("OREPA", groups, c1, c2)
        width, inner = c1 // groups, c1 if groups <= 4 else 2 * c1
        self.groups = groups
        self.c1 = c1
        self.c2 = c2
        self.s = s
        self.weight_orepa_origin = _weight(c2, width, k, k)
        self.weight_orepa_avg_conv = _weight(c2, width, 1, 1)
        self.weight_orepa_pfir_conv = _weight(c2, width, 1, 1)
        # A layer that is never called: the host's counter looks for one of its kind to know that a part of the cost,
        # here the making of the kernel, does not grow with the image.
        self.weight_orepa_1x1_kxk_idconv1 = nn.Linear(width, inner, bias=False)
        nn.init.zeros_(self.weight_orepa_1x1_kxk_idconv1.weight)
        self.weight_orepa_1x1_kxk_conv2 = _weight(c2, inner // groups, k, k)
        self.weight_orepa_1x1 = _weight(c2, width, 1, 1)
        self.weight_orepa_gconv_dw = _weight(_EXPANSION * c1, 1, k, k)
        self.weight_orepa_gconv_pw = _weight(c2, _EXPANSION * width, 1, 1)
        self.vector = nn.Parameter(torch.tensor(_ROWS).unsqueeze(1).repeat(1, c2))
        self.register_buffer("weight_orepa_avg_avg", torch.full((k, k), 1 / k**2))
        self.register_buffer("id_tensor", torch.eye(width).repeat(inner // width, 1)[:, :, None, None])
        self.register_buffer("weight_orepa_prior", _prior(c2, k))
        self.bn = nn.BatchNorm2d(c2)
        self.act = activation(act)

    def kernel(self) -> torch.Tensor:
        """Return the kernel that the branches make, (c2, c1 / groups, 3, 3)."""
        groups, width, out = self.groups, self.c1 // self.groups, self.c2 // self.groups
        v = self.vector[:, :, None, None, None]
        first = self.weight_orepa_1x1_kxk_idconv1.weight + self.id_tensor[:, :, 0, 0]
        inner = self.weight_orepa_1x1_kxk_conv2.shape[1]
        second = self.weight_orepa_1x1_kxk_conv2.view(groups, out, inner, 3, 3)
        chain = torch.einsum("gti,gothw->goihw", first.view(groups, inner, width), second).flatten(0, 1)
        # The authors' order: of the depthwise kernels group by group, of the 1x1's rows group by group within each.
        depthwise = self.weight_orepa_gconv_dw.view(groups, width, _EXPANSION, 3, 3)
        pointwise = self.weight_orepa_gconv_pw.view(out, groups, width, _EXPANSION)
        separable = torch.einsum("ogit,githw->goihw", pointwise, depthwise).flatten(0, 1)
        centre = nn.functional.pad(self.weight_orepa_1x1, (1, 1, 1, 1))
        kernel = (
            v[0] * self.weight_orepa_origin
            + v[1] * (self.weight_orepa_avg_conv * self.weight_orepa_avg_avg)
            + v[2] * (self.weight_orepa_pfir_conv * self.weight_orepa_prior.unsqueeze(1))
            + v[3] * chain
            + v[4] * centre
            + v[5] * separable
        )
        # Sizes in numbers: an exporter to ONNX asks for those of a kernel.
        return kernel.reshape(self.c2, width, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        y = nn.functional.conv2d(x, self.kernel(), None, self.s, 1, groups=self.groups)
        out: torch.Tensor = self.act(self.bn(y))
        return out

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the authors' ``idconv1``, a 1x1 kernel, for the weight of the layer."""
        theirs = state.pop(f"{prefix}weight_orepa_1x1_kxk_idconv1", None)
        if theirs is not None:
            state[f"{prefix}weight_orepa_1x1_kxk_idconv1.weight"] = theirs.flatten(1)
        super()._load_from_state_dict(state, prefix, *rest)

    def fuse_convs(self) -> None:
        """Leave one convolution, ``conv``, with bias."""
        if hasattr(self, "conv"):
            return
        gain, bias = folded(self.bn)
        weight = (self.kernel() * gain.view(-1, 1, 1, 1)).detach()
        self.conv = nn.Conv2d(self.c1, self.c2, 3, self.s, 1, groups=self.groups).requires_grad_(False).to(weight)
        self.conv.weight.copy_(weight)
        assert self.conv.bias is not None
        self.conv.bias.copy_(bias)
        for name in [*self._parameters, *self._buffers, "weight_orepa_1x1_kxk_idconv1", "bn"]:
            delattr(self, name)


def _weight(*shape: int) -> nn.Parameter:
    """Return a weight with the authors' initial values."""
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape)))


def _prior(c2: int, k: int) -> torch.Tensor:
    """Return the cosines, (c2, k, k)."""
    o, half = torch.arange(c2), c2 / 2
    line = torch.arange(k) + 0.5
    by_row = torch.cos(math.pi * torch.outer(o + 1, line) / 3).unsqueeze(2).expand(-1, -1, k)
    by_column = torch.cos(math.pi * torch.outer(o + 1 - half, line) / 3).unsqueeze(1).expand(-1, k, -1)
    return torch.where((o < half).view(-1, 1, 1), by_row, by_column).contiguous()
