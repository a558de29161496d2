"""Plain upsamplers: bilinear, transposed convolution, sub-pixel convolution.

Papers: transposed convolution, Zeiler et al., "Deconvolutional Networks", CVPR 2010,
https://doi.org/10.1109/CVPR.2010.5539957; sub-pixel convolution, Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016,
https://arxiv.org/abs/1609.05158, with the initial values of Aitken et al., "Checkerboard artifact free sub-pixel
convolution", 2017, https://arxiv.org/abs/1707.02937.
Origin: PyTorch's own operations.

Deliberate differences:
    - All of them keep their channels, as the nearest upsampling does that they replace. Ultralytics' ``ConvTranspose``
      takes its output channels from the model YAML, and norms; this one is linear, so that it can start as nearest
      upsampling exactly.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.warm_start import upsampled


def _bilinear_macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count four products an output element."""
    return 4 * output.numel()


@register(
    rule="same",
    kinds={"up"},
    params=(FromSlot("scale", "scale"),),
    paper="linear interpolation",
    summary="upsampler: bilinear interpolation; nothing to learn",
)
@counts_macs(_bilinear_macs)
class BilinearUp(nn.Module):
    """Bilinear upsampling, pixel centres aligned; (N, c, H, W) to (N, c, scale * H, scale * W).

    Args:
        c: Channels; it does not matter how many.
        scale: Upsampling factor.
    """

    def __init__(self, c: int, scale: int = 2) -> None:  # noqa: ARG002  every upsampler takes its channels
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upsample `x`, (N, c, H, W)."""
        return nn.functional.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)


def _transposed_macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> int:
    """Count what every input element is multiplied by."""
    assert isinstance(module, TransposedUp)
    return inputs[0].numel() * module.weight[0].numel()


def _start_transposed(new: nn.Module, old: nn.Module) -> None:
    assert isinstance(new, TransposedUp)
    upsampled(old, new.stride[0])
    own = 1.0 if new.groups > 1 else torch.eye(new.in_channels, device=new.weight.device)[:, :, None, None]
    new.weight.zero_().add_(own)
    assert new.bias is not None
    new.bias.zero_()


@register(
    rule="same",
    kinds={"up"},
    params=(Arg("depthwise", False, "each channel by itself"), FromSlot("scale", "scale")),
    paper="Deconvolutional Networks, CVPR 2010",
    summary="upsampler: a transposed convolution whose kernels do not overlap",
    start=_start_transposed,
    starts="nearest upsampling exactly",
)
@counts_macs(_transposed_macs)
class TransposedUp(nn.ConvTranspose2d):
    """Transposed convolution of kernel and stride `scale`; (N, c, H, W) to (N, c, scale * H, scale * W).

    ``y[o, s*i + a, s*j + b] = bias[o] + sum over channels of weight[c, o, a, b] * x[c, i, j]``.

    Args:
        c: Channels.
        depthwise: Whether each channel is by itself.
        scale: Upsampling factor.
    """

    def __init__(self, c: int, depthwise: bool = False, scale: int = 2) -> None:
        super().__init__(c, c, scale, scale, groups=c if depthwise else 1)


def _start_shuffle(new: nn.Module, old: nn.Module) -> None:
    assert isinstance(new, PixelShuffleUp)
    upsampled(old, new.scale)
    channels = torch.arange(new.conv.out_channels, device=new.conv.weight.device)
    new.conv.weight.zero_()
    new.conv.weight[channels, channels // new.scale**2] = 1
    assert new.conv.bias is not None
    new.conv.bias.zero_()


@register(
    rule="same",
    kinds={"up"},
    params=(FromSlot("scale", "scale"),),
    paper="ESPCN, CVPR 2016, arXiv:1609.05158",
    summary="upsampler: a 1x1 convolution whose channels become pixels",
    start=_start_shuffle,
    starts="nearest upsampling exactly",
)
class PixelShuffleUp(nn.Module):
    """Sub-pixel convolution; (N, c, H, W) to (N, c, scale * H, scale * W).

    ``y[o, s*i + a, s*j + b] = conv(x)[o * s**2 + a * s + b, i, j]``. The initial kernels of the pixels of one channel
    are equal, so that there is no checkerboard at the start.

    Args:
        c: Channels.
        scale: Upsampling factor.
    """

    def __init__(self, c: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(c, c * scale**2, 1)
        assert self.conv.bias is not None
        with torch.no_grad():
            for tensor in (self.conv.weight, self.conv.bias):
                tensor.copy_(tensor[:: scale**2].repeat_interleave(scale**2, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upsample `x`, (N, c, H, W)."""
        return nn.functional.pixel_shuffle(self.conv(x), self.scale)
