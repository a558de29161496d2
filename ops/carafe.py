"""CARAFE: upsampling by content-aware reassembly of features.

Paper: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, https://arxiv.org/abs/1905.02188.
Origin: written from the formulas. The layer names are those of the PyTorch version that YOLO models use
(XiaLiPKU/CARAFE, which carries no licence; none of it is here). The authors' operator lives in mmcv (Apache-2.0).

Deliberate differences:
    - The neighbourhood is gathered at the low resolution, and every element serves its ``scale**2`` outputs. The usual
      form upsamples first and unfolds the large map: the same function, many times the memory.
    - Softmax and sums run in float32 at least; the output has the dtype of the input, or that of the active autocast.
    - ``Conv`` is Ultralytics', so its activation is the model's (SiLU rather than ReLU) and ``fuse()`` reaches it.
    - All channels share their weights, as in that PyTorch version: no ``up_group``, and no ``encoder_dilation``, which
      the authors' module has.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.functional.carafe import carafe
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.warm_start import upsampled


def _macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the reassembly: ``k_up**2`` per output element. The softmax is not counted."""
    assert isinstance(module, CARAFE)
    return output.numel() * module.k_up**2


def _start(new: nn.Module, old: nn.Module) -> None:
    """Let the softmax give the pixel itself 0.9, and the rest of the neighbourhood equal parts of 0.1.

    The norm before the softmax makes the logits: its bias those of this kernel, its weight a tenth of the usual share
    of the content. No tap is so low that it cannot rise.
    """
    assert isinstance(new, CARAFE)
    upsampled(old, new.scale)
    taps = new.k_up**2
    kernel = torch.full((taps,), 0.1 / max(taps - 1, 1))
    kernel[taps // 2] = 0.9
    new.enc.bn.weight.fill_(0.1)
    new.enc.bn.bias.copy_((kernel.log() - kernel.log().mean()).repeat_interleave(new.scale**2))


@register(
    rule="same",
    kinds={"up"},
    params=(
        Arg("k_enc", 3, "kernel of the convolution that predicts the weights", low=1, high=9, odd=True),
        Arg("k_up", 5, "neighbourhood that is reassembled", low=1, high=11, odd=True),
        Arg("c_mid", 64, "channels that the weights are predicted from", low=1, high=512),
        FromSlot("scale", "scale"),
    ),
    paper="CARAFE, ICCV 2019, arXiv:1905.02188",
    summary="upsampler: every output pixel is a softmax-weighted sum of its neighbourhood",
    start=_start,
    starts="nearest upsampling with 0.9 of the weight, a mean of the neighbourhood with the rest: "
    "off by less than a hundredth of the output's variance",
)
@counts_macs(_macs)
class CARAFE(nn.Module):
    """Content-aware upsampler.

    Input (N, c, H, W), output (N, c, scale * H, scale * W). See `carafe` for the equation.

    Args:
        c: Channels in and out.
        k_enc: Kernel of the convolution that predicts the weights, odd.
        k_up: Size of the neighbourhood in source pixels, odd.
        c_mid: Channels that the weights are predicted from.
        scale: Upsampling factor.

    Raises:
        ValueError: A kernel is even, or a size is less than 1.
    """

    def __init__(self, c: int, k_enc: int = 3, k_up: int = 5, c_mid: int = 64, scale: int = 2) -> None:
        super().__init__()
        if min(k_enc, k_up, c_mid, scale) < 1 or k_enc % 2 == 0 or k_up % 2 == 0:
            raise ValueError(
                f"CARAFE: k_enc={k_enc}, k_up={k_up}, c_mid={c_mid}, scale={scale}: "
                "expected odd kernels, and whole numbers of at least 1"
            )
        self.k_up = k_up
        self.scale = scale
        self.comp = Conv(c, c_mid)
        self.enc = Conv(c_mid, (scale * k_up) ** 2, k=k_enc, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upsample `x`, (N, c, H, W)."""
        return carafe(x, self.enc(self.comp(x)), self.k_up, self.scale)
