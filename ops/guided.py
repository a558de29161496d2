"""Guided upsamplers: the encoder's map of the target size decides what each new pixel is made of.

Papers: FADE, Lu et al., "FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic Upsampling", ECCV 2022,
https://arxiv.org/abs/2207.10392; SAPA, Lu et al., "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling",
NeurIPS 2022, https://arxiv.org/abs/2209.12866.
Origin: written from the formulas. State keys of SAPA are those of poppinace/sapa; its files and those of poppinace/fade
are for academic use, none of them is here.

Deliberate differences:
    - The sum over the neighbourhood is CARAFE's (`nas.ops.functional.carafe`), with its kernels; similarities are taken
      row by row of the neighbourhood. Nothing of the size of all neighbourhoods is laid out.
    - FADE's gate adds the guide itself, which must have the decoder's channels; where it has others, a 1x1 convolution
      `align` brings it there, and the authors' version fails. Without the gate the guide only decides the weights.
    - Any scale and any size of map, not squares alone. The guide has to have exactly the output's size, and a
      concatenation behind the module asks for the same.
    - Softmax, norms and similarities run in float32 at least.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional.carafe import carafe, neighbourhoods
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.warm_start import upsampled


def _pair(
    module: nn.Module, inputs: list[torch.Tensor] | torch.Tensor, scale: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the map to upsample and its guide.

    Raises:
        ValueError: There is no guide, or not of the output's size.
    """
    name = type(module).__name__
    if isinstance(inputs, torch.Tensor) or len(inputs) != 2:
        raise ValueError(f"{name}: expected two inputs, the map to upsample and its guide: a row with two sources")
    x, guide = inputs
    size = (x.shape[2] * scale, x.shape[3] * scale)
    if not exporting() and tuple(guide.shape[2:]) != size:
        raise ValueError(
            f"{name}: a map of {x.shape[2]}x{x.shape[3]} pixels and a guide of {guide.shape[2]}x{guide.shape[3]}: "
            f"expected a guide of {size[0]}x{size[1]}"
        )
    return x, guide


def _fade_macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the sum over the neighbourhood."""
    assert isinstance(module, FADE)
    return output.numel() * module.k_up**2


def _start_fade(new: nn.Module, old: nn.Module) -> None:
    """Let the pixel itself have 0.9 of the weight and the gate be at 0.02, nearly whatever comes in."""
    assert isinstance(new, FADE)
    upsampled(old, new.scale)
    taps = new.k_up**2
    kernel = torch.full((taps,), 0.1 / max(taps - 1, 1))
    kernel[taps // 2] = 0.9
    assert new.encoder.bias is not None
    new.encoder.weight.mul_(0.005 / new.encoder.weight.std().clamp_min(1e-6))  # a tenth of the initial values
    new.encoder.bias.copy_((kernel.log() - kernel.log().mean()) / 2)  # it is added twice
    if new.gate is not None:
        assert new.gate.bias is not None
        new.gate.weight.zero_()
        new.gate.bias.fill_(torch.tensor(0.02).logit())


@register(
    rule="guided",
    kinds={"up"},
    params=(
        Arg("k_up", 5, "neighbourhood that is reassembled", low=1, high=11, odd=True),
        Arg("c_mid", 64, "channels that the weights are predicted from", low=1, high=512),
        Arg("gated", True, "blend the guide in, where a gate says so"),
        FromSlot("scale", "scale"),
    ),
    paper="FADE, ECCV 2022, arXiv:2207.10392",
    summary="guided upsampler: weights of the neighbourhood from decoder and encoder, which a gate blends",
    requires="a guide: the other source of the concatenation behind it",
    start=_start_fade,
    starts="nearest upsampling with most of the weight, a fiftieth of the guide: "
    "off by about a hundredth of the output's variance",
)
@counts_macs(_fade_macs)
class FADE(nn.Module):
    """Upsampler with weights from decoder and encoder.

    Input: a list of x, (N, c, H, W), and its guide g, (N, c_guide, scale * H, scale * W). Output (N, c, scale * H,
    scale * W). With f a 3x3 convolution that both share, and up the nearest upsampling::

        w = softmax over the k_up**2 taps of f(conv1x1(g)) + up(f(conv1x1(x)))
        u[Y, X] = sum over taps t of w[t, Y, X] * x[(Y // scale, X // scale) + t]
        G = up(sigmoid(conv1x1(x)))                                                     one channel
        y = G * align(g) + (1 - G) * u

    Args:
        c: Channels of x.
        c_guide: Channels of the guide.
        k_up: Size of the neighbourhood in pixels of x, odd.
        c_mid: Channels that the weights are predicted from.
        gated: Whether the guide is blended in; without it, y = u.
        scale: Upsampling factor.

    Raises:
        ValueError: The kernel is even, or a size is less than 1.
    """

    def __init__(
        self, c: int, c_guide: int, k_up: int = 5, c_mid: int = 64, gated: bool = True, scale: int = 2
    ) -> None:
        super().__init__()
        if min(k_up, c_mid, scale) < 1 or k_up % 2 == 0:
            raise ValueError(
                f"FADE: k_up={k_up}, c_mid={c_mid}, scale={scale}: expected an odd kernel, and whole numbers of at "
                "least 1"
            )
        self.k_up = k_up
        self.scale = scale
        self.compress_guide = nn.Conv2d(c_guide, c_mid, 1)
        self.compress = nn.Conv2d(c, c_mid, 1, bias=False)
        self.encoder = nn.Conv2d(c_mid, k_up**2, 3, padding=1)
        self.gate = nn.Conv2d(c, 1, 1) if gated else None
        self.align = nn.Conv2d(c_guide, c, 1) if gated and c_guide != c else None
        for layer in (self.compress_guide, self.compress, self.encoder, self.gate):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Upsample the first of `inputs`, guided by the second."""
        x, guide = _pair(self, inputs, self.scale)
        coarse = nn.functional.interpolate(self.encoder(self.compress(x)), scale_factor=float(self.scale))
        logits = self.encoder(self.compress_guide(guide)) + coarse
        u = carafe(x, nn.functional.pixel_unshuffle(logits, self.scale), self.k_up, self.scale)
        if self.gate is None:
            return u
        gate = nn.functional.interpolate(self.gate(x).sigmoid(), scale_factor=float(self.scale), mode="nearest")
        other = guide if self.align is None else self.align(guide)
        return u + gate * (other - u)


def _sapa_macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the similarities and the sum over the neighbourhood."""
    assert isinstance(module, SAPA)
    pixels = output.numel() // output.shape[1]
    return module.k_up**2 * (output.numel() + pixels * module.q.out_features)


@register(
    rule="guided",
    kinds={"up"},
    params=(
        Arg("k_up", 5, "neighbourhood that is reassembled", low=1, high=11, odd=True),
        Arg("c_mid", 64, "channels that are compared", low=1, high=512),
        FromSlot("scale", "scale"),
    ),
    paper="SAPA, NeurIPS 2022, arXiv:2209.12866",
    summary="guided upsampler: a new pixel is made of the neighbours that the encoder's pixel resembles",
    requires="a guide: the other source of the concatenation behind it",
)
@counts_macs(_sapa_macs)
class SAPA(nn.Module):
    """Upsampler by similarity.

    Input: a list of x, (N, c, H, W), and its guide g, (N, c_guide, scale * H, scale * W). Output (N, c, scale * H,
    scale * W). With layer norms over channels::

        q = W_q norm(g) + b_q
        k = W_k norm(x) + b_k
        w[t, Y, X] = softmax over the k_up**2 taps of q[Y, X] . k[(Y // scale, X // scale) + t]
        y[Y, X] = sum over taps t of w[t, Y, X] * x[(Y // scale, X // scale) + t]

    Outside of the map, k and x are 0.

    Args:
        c: Channels of x.
        c_guide: Channels of the guide.
        k_up: Size of the neighbourhood in pixels of x, odd.
        c_mid: Channels that are compared.
        scale: Upsampling factor.

    Raises:
        ValueError: The kernel is even, or a size is less than 1.
    """

    def __init__(self, c: int, c_guide: int, k_up: int = 5, c_mid: int = 64, scale: int = 2) -> None:
        super().__init__()
        if min(k_up, c_mid, scale) < 1 or k_up % 2 == 0:
            raise ValueError(
                f"SAPA: k_up={k_up}, c_mid={c_mid}, scale={scale}: expected an odd kernel, and whole numbers of at "
                "least 1"
            )
        self.k_up = k_up
        self.scale = scale
        self.norm_y = nn.LayerNorm(c_guide)
        self.norm_x = nn.LayerNorm(c)
        self.q = nn.Linear(c_guide, c_mid)
        self.k = nn.Linear(c, c_mid)
        for layer in (self.q, self.k):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Upsample the first of `inputs`, guided by the second."""
        x, guide = _pair(self, inputs, self.scale)
        n, _, h, w = x.shape
        query = self.q(self.norm_y(guide.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        key = self.k(self.norm_x(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        if x.dtype in (torch.float16, torch.bfloat16):
            query, key = query.float(), key.float()
        # Every pixel of x compares its scale**2 new pixels with its neighbours; a row of the neighbourhood at a time.
        query = nn.functional.pixel_unshuffle(query, self.scale)
        if torch.onnx.is_in_onnx_export():  # as a product of matrices for each pixel, which ONNX Runtime is faster at
            query = query.view(n, -1, self.scale**2, h * w).permute(0, 3, 2, 1)
            logits = neighbourhoods(key, self.k_up) @ query.transpose(2, 3)  # (N, H * W, k_up**2, scale**2)
            logits = logits.flatten(2).transpose(1, 2).reshape(n, self.k_up**2 * self.scale**2, h, w)
            return carafe(x, logits, self.k_up, self.scale)
        query = query.view(n, -1, 1, self.scale**2, h, w)
        reach = self.k_up // 2
        key = nn.functional.pad(key, (reach, reach, reach, reach))
        key = torch.stack([key[..., j : j + w] for j in range(self.k_up)], 2).unsqueeze(3)
        rows = [(query * key[..., i : i + h, :]).sum(1) for i in range(self.k_up)]
        logits = torch.cat(rows, 1).reshape(n, self.k_up**2 * self.scale**2, h, w)
        return carafe(x, logits, self.k_up, self.scale)
