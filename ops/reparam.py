"""Modules that ``fuse()`` turns into fewer operations with the same output; RepVGG is the first of them.

Paper: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, https://arxiv.org/abs/2101.03697.
Origin: Ultralytics' ``RepConv`` is imported, not copied (AGPL-3.0, as this project).

Deliberate differences of `RepVGG`:
    - It is Ultralytics' ``RepConv`` with the identity branch that the paper has and ``RepConv`` leaves out by default,
      and with its activation (SiLU, where the paper has ReLU). State keys are those of ``RepConv``.
    - The authors' attention behind the sum (``use_se``) is a choice of its own here. No dilation, which ``RepConv``
      takes and ignores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from ultralytics.nn.modules.conv import RepConv

from nas.ops.registry import FromSlot, register
from nas.ops.slots import GROUPS, check_groups, check_three, three
from nas.ops.warm_start import dense, set_norm, trained, within


class Fusible(RepConv, ABC):  # type: ignore[misc]  # Ultralytics is untyped
    """Base of modules that fold their norms and branches for inference.

    Ultralytics' ``fuse()`` looks for ``RepConv``: it calls `fuse_convs` and lets ``forward_fuse`` run from then on. A
    child says how it folds. Of ``RepConv`` it has ``forward_fuse`` alone, ``act(conv(x))``, which it writes anew if
    more is left than one convolution ``conv``.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)

    @abstractmethod
    def fuse_convs(self) -> None:
        """Fold in place. Doing so again changes nothing."""


def folded(bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a norm in evaluation mode as the gain and bias (c,) that it applies."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight * (bn.running_var + bn.eps).rsqrt()
    return gain, bn.bias - bn.running_mean * gain


def _start(new: nn.Module, old: nn.Module) -> None:
    """Keep the 1x1 branch as it is and let the 3x3 branch make up for it; the identity starts at zero."""
    assert isinstance(new, RepVGG)
    three_by_three, point = new.conv1, new.conv2
    layer, groups = trained(old, new.c1, new.c2, 3, three_by_three.conv.stride[0]), point.conv.groups
    own = dense(nn.functional.pad(point.conv.weight.to(layer.weight), (1, 1, 1, 1)), groups)
    own_mean, own_var = own.sum((2, 3)) @ layer.inputs, layer.moments(own)[1]
    near = dense(within(layer.weight, groups), groups)
    rest = near - own
    three_by_three.conv.weight.copy_(within(rest, groups))
    set_norm(three_by_three.bn, layer.moments(near)[0] - own_mean, layer.moments(rest)[1], layer.gain, layer.bias)
    set_norm(point.bn, own_mean, own_var, layer.gain, torch.zeros_like(layer.bias))
    if new.bn is not None:
        zero = torch.zeros_like(layer.inputs)
        set_norm(new.bn, layer.inputs, zero + 1, zero, zero)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride"), GROUPS),
    paper="RepVGG, CVPR 2021, arXiv:2101.03697",
    summary="3x3, 1x1 and identity branches in training, one 3x3 convolution after fuse()",
    requires="a 3x3 kernel, channels that the groups divide",
    fits=three,
    start=_start,
    starts="the replaced layer, or what the groups hold of it, exactly where its batch norm's statistics are those of "
    "its data",
)
class RepVGG(RepConv):  # type: ignore[misc]  # Ultralytics is untyped
    """Convolution of three branches, each with its batch norm; (N, c1, H, W) to (N, c2, ceil(H / s), ceil(W / s)).

    ``y = act(bn(conv3x3(x)) + bn(conv1x1(x)) [+ bn(x) if c1 = c2 and s = 1])``.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size; only 3.
        s: Stride.
        groups: Groups of channels of both convolutions.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: Another kernel or stride, or groups that do not divide the channels.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, groups: int = 1, act: bool | nn.Module = True) -> None:
        check_three("RepVGG", k, s)
        check_groups("RepVGG", groups, c1, c2)
        super().__init__(c1, c2, k, s, g=groups, act=act, bn=True)
