"""DCNv4: deformable convolution without softmax, one sampling point per tap and group of channels.

Paper: Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
CVPR 2024, https://arxiv.org/abs/2401.06197.
Origin: written from the formulas; state keys and layouts are those of OpenGVLab/DCNv4 (MIT).

Deliberate differences:
    - Any device and dtype, odd kernel, stride, dilation and group width, where the authors' kernel takes 3x3, widths
      that are multiples of 16 and certain batches; padding by half of the kernel's reach. Coordinates are float32 at
      least.
    - NCHW in and out, c1 to c2 channels, batch norm and activation follow, so that it stands in for Ultralytics'
      ``Conv``; ``bn=False, act=False`` with c1 = c2 and stride 1 is the authors' module. The output bias exists only
      without batch norm, which would cancel it: where it is loaded, the norm's mean takes it up. The projections are
      always there (no ``without_pointwise``).
    - With a stride, offsets are predicted at the centres of the kernels; the authors' module cannot stride.
    - The bias of the tap weights starts at 1 / K, so that the sum starts as the mean of the kernel's window. From zero,
      as the authors start it, the output is zero, and neither offsets nor projections learn at the first step.
    - ``group_width`` channels share their points, or the largest divisor of c1 below it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.deformable import DILATION, GROUP_WIDTH, OFFSET_SCALE, as_maps, projection
from nas.ops.functional.dcnv4 import dcnv4
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.slots import check_kernel, check_least, divisor, odd_kernel
from nas.ops.state import fold_bias
from nas.ops.warm_start import covariance, set_norm, trained


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling (per tap: 4 for a channel, 10 for a point and its corner weights) and the centre scale.

    Four per channel is what a kernel spends that folds the tap's weight into its corner weights first.
    """
    assert isinstance(module, DCNv4)
    n, _, h, w = output.shape
    c = inputs[0].shape[1]
    per_pixel = module.taps * (4 * c + 10 * module.groups)
    if module.center_feature_scale:
        per_pixel += c * module.groups + c
    return n * h * w * per_pixel


def _start(new: nn.Module, old: nn.Module) -> None:
    """Write the trained kernel as patterns of taps, one a group, times channel matrices of the group's rank.

    A group computes ``sum_k m[k] U V x_k``, V its rows of ``value_proj`` and U its columns of ``output_proj``. The
    kernel's principal patterns under the assumed covariance of pixels have a channel matrix each; a group takes the
    pattern and the singular vectors that leave the least error. Offsets undo `offset_scale` and `dilation`; all that
    depends on the input stays zero.
    """
    assert isinstance(new, DCNv4)
    assert isinstance(new.bn, nn.BatchNorm2d)
    c1, c2, groups, k = new.value_proj.in_features, new.output_proj.out_features, new.groups, new.k
    layer = trained(old, c1, c2, k, new.s)
    width, centre = c1 // groups, k * k // 2
    taps = torch.tensor([t for t in range(k * k) if t != centre or not new.remove_center], device=layer.weight.device)
    # With the centre feature's gate, the centre tap is there even where it is removed.
    used = torch.arange(k * k, device=taps.device) if new.center_feature_scale else taps

    # To whitened pixels, where the error of a kernel is a sum of squares. Taps along the width first.
    kernel = layer.weight.transpose(2, 3).flatten(2)
    cov = covariance(k, kernel)
    root = torch.linalg.cholesky(cov[used][:, used])
    white = torch.linalg.solve_triangular(root, cov[used] @ kernel.flatten(0, 1).T, upper=False)  # (K, c2 * c1)
    _, axes = torch.linalg.eigh(white @ white.T)
    axes = axes.flip(1)
    patterns = torch.linalg.solve_triangular(root.T, axes, upper=True).T  # (K, K), one a row
    matrices = (axes.T @ white).view(-1, c2, c1)
    u, s, v = torch.linalg.svd(matrices)
    rank = s.shape[1]
    left = nn.functional.pad(u[..., :rank] * s.unsqueeze(1), (0, c1 - rank)).view(-1, c2, groups, width)
    energy = nn.functional.pad(s.square(), (0, c1 - rank)).view(-1, groups, width).sum(2)
    best = energy.flatten().topk(groups).indices
    pattern, block = best.div(groups, rounding_mode="floor"), best % groups

    # Every pattern of one length, that of the mean over nine taps, and with its centre's weight above zero.
    m = patterns[pattern]  # (groups, K)
    at = int((used == centre).nonzero()) if centre in used else 0
    length = m.norm(dim=1) * 3 * torch.where(m[:, at] < 0, -1, 1)
    m = m / length.unsqueeze(1)
    left = left[pattern, :, block] * length[:, None, None]  # (groups, c2, width)
    right = v.reshape(-1, groups, width, c1)[pattern, block]  # (groups, width, c1)
    near = torch.zeros_like(kernel)
    for g in range(groups):
        near[..., used] += (left[g] @ right[g]).unsqueeze(2) * m[g]

    new.value_proj.weight.copy_(right.flatten(0, 1))
    new.value_proj.bias.zero_()
    new.output_proj.weight.copy_(left.transpose(0, 1).flatten(1))
    if new.center_feature_scale:
        # The output is (1 - a) * sum + a * centre.
        a = m[:, at].clamp(0.02, 0.5) if new.remove_center else torch.full_like(m[:, at], 0.12)
        new.center_feature_scale_proj_weight.zero_()
        new.center_feature_scale_proj_bias.copy_(a.logit())
        m[:, at] -= a
        m = m[:, taps] / (1 - a).unsqueeze(1)
    back = 1 / new.offset_scale - new.dilation
    offsets = torch.stack((taps.div(k, rounding_mode="floor") - k // 2, taps % k - k // 2), 1).flatten() * back
    new.offset_mask.weight.zero_()
    new.offset_mask.bias.zero_()
    new.offset_mask.bias[: groups * 3 * len(taps)].copy_(torch.cat((offsets.expand(groups, -1), m), 1).flatten())
    mean, var = layer.moments(near.view(c2, c1, k, k).transpose(2, 3))
    set_norm(new.bn, mean, var, layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        GROUP_WIDTH,
        OFFSET_SCALE,
        Arg("dw_kernel_size", 0, "depthwise kernel before the offsets; 0 for none", options=(0, 1, 3, 5, 7)),
        Arg("center_feature_scale", False, "blend in the projected centre by a learned gate"),
        Arg("remove_center", False, "leave out the centre tap"),
        DILATION,
    ),
    paper="DCNv4, CVPR 2024, arXiv:2401.06197",
    summary="deformable convolution: taps sample the input at learned points with learned weights",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the replaced kernel's largest terms, one pattern of taps a group: "
    "off by about a fifth of the output's variance on a trained YOLOv8n, by less with more groups",
)
@counts_macs(_macs)
class DCNv4(nn.Module):
    """Deformable convolution v4, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). See `dcnv4` for the equation; it samples
    ``value_proj(x)``, at points and with weights from ``offset_mask(x)``, and ``output_proj`` follows.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        group_width: Channels that share their points: the largest divisor of c1 that is not above it.
        offset_scale: Scale of the grid and its offsets.
        dw_kernel_size: Depthwise kernel that the input goes through before points are predicted, odd; 0 for none.
        center_feature_scale: Whether ``y * (1 - a) + value * a`` follows the sum, with a gate ``a`` per group that is
            predicted from y.
        remove_center: Whether the centre tap is left out.
        dilation: Pixels from tap to tap, before they are scaled.
        output_bias: Whether ``output_proj`` has a bias. With batch norm it has none.
        bn: Whether batch norm follows.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An argument that it is not defined for.
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
        dw_kernel_size: int = 0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        dilation: int = 1,
        output_bias: bool = True,
        bn: bool = True,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        check_kernel("DCNv4", k, s)
        check_least("DCNv4", group_width=group_width, dilation=dilation)
        if k == 1 and remove_center:
            raise ValueError("DCNv4: k=1 with remove_center: no tap is left; expected a kernel of 3 or more")
        if dw_kernel_size < 0 or (dw_kernel_size > 0 and dw_kernel_size % 2 == 0):
            raise ValueError(f"DCNv4: dw_kernel_size={dw_kernel_size}: expected 0 for none, or an odd number")
        self.k = k
        self.s = s
        self.groups = c1 // divisor(group_width, c1)
        self.taps = k * k - remove_center
        self.offset_scale = float(offset_scale)
        self.dilation = dilation
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center

        self.value_proj = projection(c1, c1)
        self.output_proj = projection(c1, c2, bias=output_bias and not bn)
        self.offset_mask_dw = (
            nn.Conv2d(c1, c1, dw_kernel_size, s, dw_kernel_size // 2, groups=c1) if dw_kernel_size else None
        )
        used = self.groups * 3 * self.taps
        self.offset_mask = nn.Linear(c1, -(-used // 8) * 8)  # the authors pad the rows to a multiple of 8
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        with torch.no_grad():
            self.offset_mask.bias[:used].view(self.groups, 3 * self.taps)[:, 2 * self.taps :] = 1 / self.taps
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(self.groups, c1))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(self.groups))
        self.bn = nn.BatchNorm2d(c2) if bn else nn.Identity()
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        value = self.value_proj(x.permute(0, 2, 3, 1))
        # With an odd kernel and padding k // 2, the kernels' centres are every s-th pixel.
        source = x[..., :: self.s, :: self.s] if self.offset_mask_dw is None else self.offset_mask_dw(x)
        y = dcnv4(
            value,
            self.offset_mask(source.permute(0, 2, 3, 1)),
            kernel=self.k,
            stride=self.s,
            pad=self.dilation * (self.k // 2),
            dilation=self.dilation,
            groups=self.groups,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
        )
        if self.center_feature_scale:
            gate = nn.functional.linear(
                y, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            ).sigmoid()
            gate = gate.repeat_interleave(y.shape[3] // self.groups, dim=3)
            y = torch.lerp(y, value[:, :: self.s, :: self.s], gate)
        out: torch.Tensor = self.act(self.bn(as_maps(self.output_proj(y), x)))
        return out

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Fold the authors' output bias into the batch norm, where there is one."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_bias(state, prefix, "output_proj", "bn", self.bn)
        super()._load_from_state_dict(state, prefix, *rest)
