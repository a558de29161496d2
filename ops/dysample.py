"""DySample: upsampling by sampling the input at learned points.

Paper: Liu et al., "Learning to Upsample by Learning to Sample", ICCV 2023, https://arxiv.org/abs/2308.15085.
Origin: written from the formulas; state keys are those of tiny-smart/dysample (MIT).

Deliberate differences:
    - Coordinates are float32 at least, whatever the dtype of the model; the output has the dtype of the input, or that
      of the active autocast. (In half precision the usual form samples up to 0.3 pixels beside the point.)
    - ``init_pos`` is there for the authors' checkpoints: the op computes these constants.
    - The grid is built on the device: nothing is copied from the host in a forward.
    - Pixel shuffle on 4-D tensors only, so that it exports (opset 16 and later, GridSample).
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.functional.dysample import dysample
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.warm_start import upsampled


def _macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sampling: four per output element. Neither coordinates nor corner weights are counted."""
    return 4 * output.numel()


def _start(new: nn.Module, old: nn.Module) -> None:
    """Let every output pixel sample its source pixel's centre, or with style ``pl`` its own place.

    The bias takes back ``init_pos``, which is nearest upsampling. With style ``pl`` one bias serves all sub-pixels, and
    it stays bilinear interpolation. The small random weights stay, and move points by about a hundredth of a pixel.
    """
    assert isinstance(new, DySample)
    upsampled(old, new.scale)
    assert new.offset.bias is not None
    if new.scope is not None:
        new.scope.weight.zero_()
    if new.style == "lp":
        new.offset.bias.copy_(new.init_pos.flatten() * -4)  # the offset is a quarter of what the convolution says
    else:
        new.offset.bias.zero_()


@register(
    rule="same",
    kinds={"up"},
    params=(
        FromSlot("scale", "scale"),
        Arg("style", "lp", "where offsets are predicted: lp before, pl after the pixel shuffle", options=("lp", "pl")),
        Arg("groups", 4, "groups of channels with their own points", low=1, high=64),
        Arg("dyscope", False, "let the input say how far points may move"),
    ),
    paper="DySample, ICCV 2023, arXiv:2308.15085",
    summary="upsampler: bilinear sampling at learned points",
    requires="channels that are a multiple of groups, and for style pl of scale**2",
    start=_start,
    starts="nearest upsampling, almost exactly; with style pl bilinear interpolation, as without a start: "
    "off by 1 to 6 hundredths of the output's variance on a trained YOLOv8n",
)
@counts_macs(_macs)
class DySample(nn.Module):
    """Point-sampling upsampler; starts almost as bilinear interpolation.

    Input (N, c, H, W), output (N, c, scale * H, scale * W). See `dysample` for the equation; the offset is
    ``conv(x) * 0.25 + init_pos``, or with `dyscope` ``conv(x) * sigmoid(scope(x)) * 0.5 + init_pos``.

    Args:
        c: Channels in and out.
        scale: Upsampling factor.
        style: ``lp`` predicts offsets at the low resolution, ``pl`` after a pixel shuffle of the input.
        groups: Groups of channels with their own points.
        dyscope: Whether the input says how far points may move.

    Raises:
        ValueError: The channels cannot be split, or an unknown style.
    """

    init_pos: torch.Tensor

    def __init__(self, c: int, scale: int = 2, style: str = "lp", groups: int = 4, dyscope: bool = False) -> None:
        super().__init__()
        if style not in ("lp", "pl"):
            raise ValueError(f"DySample: style={style!r}: expected 'lp' or 'pl'")
        if scale < 1 or groups < 1 or c % groups:
            raise ValueError(
                f"DySample: {c} channels, groups={groups}, scale={scale}: expected groups that divide the channels"
            )
        if style == "pl" and c % scale**2:
            raise ValueError(
                f"DySample: {c} channels with style 'pl': expected a multiple of {scale**2}, or style 'lp'"
            )
        self.scale = scale
        self.style = style
        self.groups = groups
        source, points = (c, 2 * groups * scale**2) if style == "lp" else (c // scale**2, 2 * groups)
        self.offset = nn.Conv2d(source, points, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]  # this convolution has one
        self.scope = nn.Conv2d(source, points, 1, bias=False) if dyscope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)
        # Centres of the sub-pixels, seen from the centre of their pixel: x varies along a row, y along a column.
        sub = (torch.arange(scale) - (scale - 1) / 2) / scale
        x, y = sub.repeat(scale), sub.repeat_interleave(scale)
        self.register_buffer("init_pos", torch.cat((x.repeat(groups), y.repeat(groups))).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upsample `x`, (N, c, H, W)."""
        source = nn.functional.pixel_shuffle(x, self.scale) if self.style == "pl" else x
        offset, factor = self.offset(source), 0.25
        if self.scope is not None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            offset, factor = offset.to(dtype) * self.scope(source).to(dtype).sigmoid(), 0.5
        if self.style == "pl":
            offset = nn.functional.pixel_unshuffle(offset, self.scale)
        return dysample(x, offset, self.scale, self.groups, factor=factor, initial=True)
