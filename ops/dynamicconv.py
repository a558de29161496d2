"""DynamicConv: a convolution whose weights are mixed for every image from a few experts.

Papers: Han et al., "ParameterNet: Parameters Are All You Need for Large-scale Visual Pretraining of Mobile Networks",
CVPR 2024, https://arxiv.org/abs/2306.14525; Yang et al., "CondConv", NeurIPS 2019, https://arxiv.org/abs/1904.04971.
Origin: written from the formulas; state keys are those of the authors' code (huawei-noah/Efficient-AI-Backbones,
BSD-3-Clause) and of timm's CondConv2d (Apache-2.0).

Deliberate differences:
    - Batch norm and activation follow, so that it stands in for Ultralytics' ``Conv``; ``bn=False, act=False`` is the
      authors' layer. It pads by ``k // 2`` as ``Conv`` does (no difference for odd kernels).
    - Without the authors' options of a bias, of dilation and of other paddings. A checkpoint with ``cond_conv.bias`` is
      refused: it is mixed for every image, so that no batch norm can take it up.
    - ``gate="softmax"`` is offered beside the sigmoid of the authors' code.
    - Traced or exported, it takes the equal dense form, which works for any batch but spends `num_experts` times the
      arithmetic; grouped convolution would freeze the batch. 1x1 kernels need neither: they are a batched product.
    - Mixed weights differ per image, so ``fuse()`` leaves its batch norm alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.export import exporting
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.slots import GROUPS, check_groups
from nas.ops.warm_start import dense, set_norm, trained, within


def _macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count one convolution with the mixed weights, and the mixing, per image."""
    assert isinstance(module, CondConv2d)
    n, _, h, w = output.shape
    return n * module.weight[0].numel() * (h * w + module.weight.shape[0])


@counts_macs(_macs)
class CondConv2d(nn.Module):
    """Convolution with per-image weights ``W_n = sum_e r[n, e] * W_e`` (CondConv, equation 1).

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size.
        s: Stride.
        num_experts: Number of weights E that are mixed.
        groups: Groups of channels.
    """

    groups = 1  # of modules that were pickled before there was the argument

    def __init__(self, c1: int, c2: int, k: int, s: int, num_experts: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.width = c1 // groups  # a number also where a trace makes c1 a tensor
        self.c2 = c2
        self.k = k
        self.s = s
        # Flat, as in the authors' checkpoints. Every expert starts like an nn.Conv2d.
        self.weight = nn.Parameter(torch.empty(num_experts, c2 * self.width * k * k))
        bound = (self.width * k * k) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Convolve each image with its own mix.

        Args:
            x: (N, c1, H, W).
            r: (N, E) mixing weights.

        Returns:
            (N, c2, Ho, Wo), padded by ``k // 2``.
        """
        n, c1, h, w = x.shape
        groups, width = self.groups, c1 if self.groups == 1 else self.width
        if self.k == 1:
            x = x[..., :: self.s, :: self.s]
            mixed = (r @ self.weight).view(n * groups, self.c2 // groups, width)
            size = (n, x.shape[2], x.shape[3], self.c2)
            if groups > 1:
                x = x.reshape(n * groups, width, size[1] * size[2])
                return torch.bmm(mixed, x).view(n, self.c2, size[1], size[2])
            if x.stride(1) == 1 and not exporting():  # channels last, in and out
                return torch.bmm(x.permute(0, 2, 3, 1).flatten(1, 2), mixed.mT).view(size).permute(0, 3, 1, 2)
            return torch.bmm(mixed, x.flatten(2)).view(n, self.c2, size[1], size[2])
        if exporting() or n == 0:
            # y = conv([r_1 x ... r_E x], [W_1 ... W_E]): a plain convolution, for any batch.
            experts = self.weight.view(-1, self.c2, width, self.k, self.k).transpose(0, 1).flatten(1, 2)
            x = x.unsqueeze(1) * r[:, :, None, None, None]
            if groups > 1:  # each with the inputs of its experts
                x = torch.unflatten(x, 2, (groups, width)).transpose(1, 2).flatten(2, 3)
            return nn.functional.conv2d(x.flatten(1, 2), experts, None, self.s, self.k // 2, groups=groups)
        # The batch becomes groups of one convolution.
        mixed = (r @ self.weight).view(n * self.c2, width, self.k, self.k)
        y = nn.functional.conv2d(x.reshape(1, n * c1, h, w), mixed, None, self.s, self.k // 2, groups=n * groups)
        return y.view(n, self.c2, y.shape[2], y.shape[3])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse the authors' bias rather than lose it."""
        if state.pop(f"{prefix}bias", None) is not None:
            errors: list[str] = rest[-1]
            errors.append(f"{prefix}bias: DynamicConv has no bias; load a checkpoint that was made without it")
        super()._load_from_state_dict(state, prefix, *rest)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Mix the trained kernel from experts that differ around it.

    Every gate starts at the same value, whatever the image, and the experts' differences from the kernel add up to
    nothing. Were there none, all experts would get the same gradient, and routing none that tells them apart.
    """
    assert isinstance(new, DynamicConv)
    assert isinstance(new.bn, nn.BatchNorm2d)
    conv = new.cond_conv
    experts = conv.weight.shape[0]
    layer = trained(old, new.routing.in_features, conv.c2, conv.k, conv.s)
    near = within(layer.weight, conv.groups)
    kernel = near.flatten()
    noise = torch.randn(experts, len(kernel), generator=torch.Generator().manual_seed(0)).to(kernel)
    spread = 0.25 * near.square().mean((1, 2, 3)).sqrt().repeat_interleave(len(kernel) // conv.c2)
    mixed = kernel + (noise - noise.mean(0)) * spread
    new.routing.weight.zero_()
    new.routing.bias.zero_()
    conv.weight.copy_(mixed if new.gate == "softmax" else mixed * 2 / experts)  # gates start at 1 / E, or 1 / 2
    set_norm(new.bn, *layer.moments(dense(near, conv.groups)), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg("num_experts", 4, "weights that are mixed", low=1, high=16),
        Arg("gate", "sigmoid", "how mixing weights are bounded", options=("sigmoid", "softmax")),
        GROUPS,
    ),
    paper="ParameterNet, CVPR 2024, arXiv:2306.14525",
    summary="convolution whose weights are mixed per image from several experts",
    requires="channels that the groups divide",
    start=_start,
    starts="the replaced convolution exactly, or what the groups hold of it, mixed from experts that differ around its "
    "kernel",
)
class DynamicConv(nn.Module):
    """Dynamic convolution, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, Ho, Wo) as Ultralytics' ``Conv(c1, c2, k, s)``. The mixing weights are
    ``r = gate(routing(mean over the pixels of x))``.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size.
        s: Stride.
        num_experts: Weights that are mixed.
        gate: ``sigmoid``, or ``softmax`` over the experts.
        groups: Groups of channels.
        bn: Whether batch norm follows.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An unknown gate, no expert, or groups that do not divide the channels.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        num_experts: int = 4,
        gate: str = "sigmoid",
        groups: int = 1,
        bn: bool = True,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        if gate not in ("sigmoid", "softmax"):
            raise ValueError(f"DynamicConv: gate={gate!r}: expected 'sigmoid' or 'softmax'")
        if min(k, s, num_experts) < 1:
            raise ValueError(f"DynamicConv: k={k}, s={s}, num_experts={num_experts}: expected at least 1")
        check_groups("DynamicConv", groups, c1, c2)
        self.gate = gate
        self.routing = nn.Linear(c1, num_experts)
        self.cond_conv = CondConv2d(c1, c2, k, s, num_experts, groups)
        self.bn = nn.BatchNorm2d(c2) if bn else nn.Identity()
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        r = self.routing(x.mean((2, 3)))
        r = r.sigmoid() if self.gate == "sigmoid" else r.softmax(1)
        y: torch.Tensor = self.act(self.bn(self.cond_conv(x, r.to(x.dtype))))
        return y
