"""A layer with fewer output channels: its start, and what its readers make of the channels that are left.

Sources: as in `nas.ops.reconstruct`. Which channels of a layer to keep is a question to the layers that read them (He
et al., ICCV 2017; Luo et al., ThiNet): those from which the sums of the readers' first convolutions can be made best.

Deliberate differences:
    - The readers' weights are not fitted one by one. One 1x1 convolution, the *decoder*, makes the wide map from the
      narrow one by least squares. Behind it, every reader is what it was: so a narrow layer is distilled and scored as
      any other candidate, and goes with any candidate in a reader's place.
    - In the model there is no decoder: the readers' first convolutions take it over. A product of two linear maps is
      one, so that this is exact but for the decoder's bias in the padding at the edges of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.block import SPPF, C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.reconstruct import fitted_to, kept, sites
from nas.ops.registry import Input
from nas.ops.shrink import inherit_c2f, on_copies, plain, take_rows
from nas.ops.warm_start import CannotStart

INPUT_CONVS: Mapping[str, tuple[str, ...]] = {
    "Conv": ("",),
    "C3": ("cv1", "cv2"),
    **dict.fromkeys(("C2f", "C3k2", "C3k2Block", "GhostConv", "SCDown"), ("cv1",)),
}
"""Layers that take their input by convolutions alone, and these (`nas.space.choice.TAKE_BY_CONV`)."""
DECODER = "wide"
"""Name of the decoder among the tensors of a narrow layer."""
_LAYER = "layer"


class Decoded(nn.Module):
    """A narrow layer behind which a decoder makes the wide map; (N, c1, H, W) to (N, wide, H', W').

    Args:
        layer: The layer.
        narrow: Its output channels.
        wide: Those of the layer that it replaces.
    """

    def __init__(self, layer: nn.Module, narrow: int, wide: int) -> None:
        super().__init__()
        self.layer = layer
        self.wide = nn.Conv2d(narrow, wide, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the wide map of `x`, (N, c1, H, W)."""
        y: torch.Tensor = self.wide(self.layer(x))
        return y


def own_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's tensors as files have them: of a `Decoded` by the layer's own names, and its decoder's."""
    state: dict[str, torch.Tensor] = module.state_dict()
    if not isinstance(module, Decoded):
        return dict(state)
    return {key.removeprefix(f"{_LAYER}."): value for key, value in state.items()}


def reading_weights(reader: nn.Module, first: int, count: int) -> torch.Tensor:
    """Return with which weights a trained layer takes some channels of its input into its first sums.

    Args:
        reader: The layer, of one of the classes `INPUT_CONVS`.
        first: The first of the channels.
        count: How many.

    Returns:
        (sums, count), in units of what the batch norm behind them makes of a sum.

    Raises:
        CannotStart: It is something else.
    """
    found = []
    for name in INPUT_CONVS.get(type(reader).__name__, ()):
        conv = reader.get_submodule(name)
        if not isinstance(conv, Conv) or not isinstance(getattr(conv, "bn", None), nn.BatchNorm2d):
            raise CannotStart(f"{type(reader).__name__}: expected a Conv with batch norm")
        if conv.conv.groups != 1:
            raise CannotStart(f"{type(reader).__name__}: expected a Conv without groups")
        bn: Any = conv.bn
        weight = conv.conv.weight.detach()[:, first : first + count].float()
        gain = bn.weight.detach().float() * (bn.running_var.float() + bn.eps).rsqrt()
        found.append((weight * gain[:, None, None, None]).permute(0, 2, 3, 1).reshape(-1, count))
    if not found:
        raise CannotStart(f"{type(reader).__name__}: expected one of {', '.join(INPUT_CONVS)}")
    return torch.cat(found)


def start_narrow(new: Decoded, old: nn.Module, inputs: Input | None, readers: torch.Tensor) -> bool:
    """Start a narrow layer as near to the trained one as it can, in place, with its decoder.

    Args:
        new: The narrow layer.
        old: The trained layer: Ultralytics' ``Conv``, ``C2f`` or ``SPPF``.
        inputs: (N, c1, H, W) the layer's input on training images; made up if None.
        readers: (sums, c2) the `reading_weights` of the layers that take its output.

    Returns:
        Whether it did. False, and nothing is changed, if it does not understand `old`.
    """

    def rule(mine: Any, theirs: nn.Module, x: Input) -> None:
        assert isinstance(x, torch.Tensor)
        wide = theirs(x)
        count = wide.shape[1]
        at = sites(wide, count)
        target = at.values(wide)
        number = torch.arange(count, device=wide.device)[:, None]
        (rows,) = kept(target, readers.to(target), [(number, mine.wide.in_channels)])
        _take(mine.layer, theirs, x, rows)
        same = (number == rows).double()  # a channel that is kept is itself, as far as it is
        fit = fitted_to(at.values(mine.layer(x)), target, same)
        mine.wide.weight.copy_(fit.weight.view_as(mine.wide.weight))
        mine.wide.bias.copy_(fit.shift)

    try:
        with torch.no_grad():
            on_copies(rule)(new, old, inputs)
    except CannotStart:
        return False
    return True


def _take(new: Any, old: Any, x: torch.Tensor, rows: torch.Tensor) -> None:
    """Give a narrow layer the output channels `rows` of a trained one; a C2f is narrower inside as well."""
    if type(new) is not type(old):
        raise CannotStart(f"{type(old).__name__}: expected {type(new).__name__}")
    if isinstance(old, Conv):
        if not isinstance(old.bn, nn.BatchNorm2d) or new.conv.kernel_size != old.conv.kernel_size:
            raise CannotStart(f"{type(old).__name__}: expected a Conv of the same kernel, with batch norm")
        take_rows(new, old, rows)
    elif isinstance(old, C2f):
        inside = copy.deepcopy(new)
        inside.cv2 = Conv(new.cv2.conv.in_channels, old.cv2.conv.out_channels).to(x.device).eval()
        inherit_c2f(inside, old, x)
        for own, theirs in ((new.cv1, inside.cv1), (new.m, inside.m)):
            own.load_state_dict(theirs.state_dict())
        take_rows(new.cv2, inside.cv2, rows)
    elif isinstance(old, SPPF) and plain(new.cv1, 1).conv.weight.shape == plain(old.cv1, 1).conv.weight.shape:
        if getattr(old, "add", False):
            raise CannotStart("SPPF: expected one without a shortcut")
        new.cv1.load_state_dict(old.cv1.state_dict())
        take_rows(new.cv2, plain(old.cv2, 1), rows)
    else:
        raise CannotStart(f"{type(old).__name__}: expected Conv, C2f or SPPF")


@dataclass(frozen=True)
class Decoder:
    """How a wide map is made of a narrow one: ``wide = weight @ narrow + bias``.

    Attributes:
        weight: (wide, narrow).
        bias: (wide,).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def same(cls, count: int) -> Decoder:
        """Return that of a map which is not narrower."""
        return cls(torch.eye(count), torch.zeros(count))

    @classmethod
    def joined(cls, parts: Sequence[Decoder]) -> Decoder:
        """Return that of concatenated maps."""
        weight: torch.Tensor = torch.block_diag(*(p.weight for p in parts))  # type: ignore[no-untyped-call]
        return cls(weight, torch.cat([p.bias for p in parts]))


def folded(
    own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], decoder: Decoder
) -> dict[str, torch.Tensor]:
    """Return a layer's tensors that change where its input is narrower: those of its first convolutions.

    Args:
        own: Tensors of the layer with the narrow input, for their shapes.
        given: Tensors of the layer with the wide one.
        decoder: How the wide input is made of the narrow one.
    """
    wide, narrow = decoder.weight.shape
    found: dict[str, torch.Tensor] = {}
    for key, mine in own.items():
        theirs = given.get(key)
        if theirs is None or theirs.dim() != 4 or mine.dim() != 4 or theirs.shape == mine.shape:
            continue
        out, _, *size = theirs.shape
        if (tuple(theirs.shape), tuple(mine.shape)) != ((out, wide, *size), (out, narrow, *size)):
            continue
        found[key] = torch.einsum("oikl,ij->ojkl", theirs.float(), decoder.weight.float())
        moved = theirs.float().sum((2, 3)) @ decoder.bias.float()
        mean, bias = key.removesuffix("conv.weight") + "bn.running_mean", key.removesuffix("weight") + "bias"
        if mean in given:
            found[mean] = given[mean].float() - moved
        elif bias in given:
            found[bias] = given[bias].float() + moved
    return found
