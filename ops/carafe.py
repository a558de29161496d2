"""CARAFE: upsampling by content-aware reassembly of features.

Paper: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, https://arxiv.org/abs/1905.02188.
Origin: written from the formulas. The layer names are those of the PyTorch version that YOLO models use
(XiaLiPKU/CARAFE, which carries no licence; none of it is here). The authors' operator lives in mmcv (Apache-2.0).

Deliberate differences:
    - The neighbourhood is gathered at the low resolution, and every element serves its ``scale**2`` outputs. The usual
      form upsamples first and unfolds the large map: the same function, many times the memory.
    - Softmax and sums run in float32 at least; the output has the dtype of the input, also under autocast.
    - ``Conv`` is Ultralytics', so its activation is the model's (SiLU rather than ReLU) and ``fuse()`` reaches it.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.export import exporting
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.start import upsampled


def carafe(x: torch.Tensor, mask_logits: torch.Tensor, k_up: int, scale: int) -> torch.Tensor:
    """Upsample `x` by sums over its neighbourhoods, weighted by a softmax that each output pixel has of its own.

    With ``r = k_up // 2`` and ``s = scale`` (equation 2 of the paper, zero padding)::

        y[n, c, Y, X] = sum_{a,b < k_up} x[n, c, Y // s + a - r, X // s + b - r] * m[n, a * k_up + b, Y, X]
        m = softmax over the taps of pixel_shuffle(mask_logits, s)

    Weights that fall outside of the image are lost, not redistributed.

    Args:
        x: (N, C, H, W), floating point, any device and memory format.
        mask_logits: (N, k_up**2 * scale**2, H, W), in the channel order that pixel shuffle reads.
        k_up: Size of the neighbourhood in source pixels, odd.
        scale: Upsampling factor.

    Returns:
        (N, C, scale * H, scale * W), dtype and memory format of `x`.

    Raises:
        ValueError: `k_up` is even, or the logits do not fit `x`.
    """
    if k_up < 1 or k_up % 2 == 0 or scale < 1:
        raise ValueError(f"carafe: k_up={k_up}, scale={scale}: expected an odd k_up and a scale of at least 1")
    export = exporting()
    n, c, h, w = x.shape
    if not export and mask_logits.shape != (n, (k_up * scale) ** 2, h, w):
        raise ValueError(
            f"carafe: mask_logits {tuple(mask_logits.shape)} for x {tuple(x.shape)}: "
            f"expected {(n, (k_up * scale) ** 2, h, w)}"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    mask = torch.unflatten(mask_logits.to(dtype), 1, (k_up**2, scale**2)).softmax(1)
    r = k_up // 2

    if export or x.device.type not in ("cpu", "cuda"):
        # Slices, products and sums: exports to any opset and batch, and runs where embedding_bag does not.
        padded = nn.functional.pad(x.to(dtype), (r, r, r, r)).unsqueeze(2)
        y = padded[..., :h, :w] * mask[:, 0].unsqueeze(1)
        for tap in range(1, k_up**2):
            a, b = divmod(tap, k_up)
            y = y + padded[..., a : a + h, b : b + w] * mask[:, tap].unsqueeze(1)
        return nn.functional.pixel_shuffle(y.flatten(1, 2), scale).to(x.dtype)

    # A bag per output pixel: the k_up**2 source pixels, as rows of C values, with their weights. Nothing of the size of
    # neighbourhood times channels is ever stored. int32 holds the row numbers of any map that fits into memory.
    padded = nn.functional.pad(x.to(dtype).permute(0, 2, 3, 1), (0, 0, r, r, r, r))
    stride = w + 2 * r
    index = torch.arange(n * (h + 2 * r) * stride, dtype=torch.int32, device=x.device).view(n, h + 2 * r, stride)
    taps = torch.arange(k_up, dtype=torch.int32, device=x.device)
    taps = (taps.unsqueeze(1) * stride + taps).flatten()
    rows = index[:, :h, None, :w, None, None] + taps  # the neighbourhood's top left corner, plus the tap
    rows = rows.expand(n, h, scale, w, scale, k_up**2).reshape(-1, k_up**2)
    weights = torch.unflatten(mask, 2, (scale, scale)).permute(0, 4, 2, 5, 3, 1).reshape(-1, k_up**2)
    y = nn.functional.embedding_bag(rows, padded.reshape(-1, c), mode="sum", per_sample_weights=weights)
    y = y.view(n, h * scale, w * scale, c).permute(0, 3, 1, 2).to(x.dtype)
    return y if x.is_contiguous(memory_format=torch.channels_last) else y.contiguous()


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
