"""Starts of modules that are smaller than the layer that they replace: they keep what matters most of it.

A start of `nas.ops.warm_start` knows the trained layer alone. A smaller one has to know as well what the layer sees:
which channels and repeats it can do without depends on its inputs. So these starts are called with maps of the layer's
input, of training images where there are any, and work by least squares (`nas.ops.reconstruct`): from the layer's
first convolution to its last, each keeps the channels that the next one needs most, and each is fitted again to the
sums of the trained one on what the new layer has become before it.

A function of this kind is decorated with `on_copies`: it is called as ``inherit(new, old, inputs)`` with copies in
float32 and evaluation mode on one device, changes `new` in place, and raises `CannotStart` for a layer that it does not
understand.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.block import SPPF, Bottleneck, C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.reconstruct import Fit, fitted_to, kept, kept_channels, sites
from nas.ops.registry import Inherit, Input
from nas.ops.warm_start import CannotStart, set_norm

_IMAGES = 4
_SIDE = 24
"""Made-up inputs, where there are no images: number, and pixels a side of the largest map."""


def on_copies(rule: Callable[[Any, nn.Module, Input], None]) -> Inherit:
    """Let a function work on copies, with maps that are made up where there are none: an error then changes nothing."""

    @functools.wraps(rule)
    def inherit(new: nn.Module, old: nn.Module, inputs: Input | None) -> None:
        device = next(new.parameters()).device
        mine, theirs = (copy.deepcopy(m).to(device).float().eval() for m in (new, old))
        given = _made_up(theirs) if inputs is None else inputs
        maps = [x.detach().float().to(device) for x in (given if isinstance(given, list) else [given])]
        rule(mine, theirs, maps if isinstance(given, list) else maps[0])
        new.load_state_dict(mine.state_dict())

    return inherit


def _made_up(old: nn.Module) -> Input:
    """Return maps that a layer may see: smooth noise behind an activation."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, side: int) -> torch.Tensor:
        x = torch.randn(_IMAGES, channels, side + 2, side + 2, generator=generator)
        smooth: torch.Tensor = nn.functional.silu(1.5 * nn.functional.avg_pool2d(x, 3, 1) + 0.3 * x[..., 1:-1, 1:-1])
        return smooth

    branches = getattr(old, "cv2", None)
    if isinstance(branches, nn.ModuleList):  # a head: a map for each level
        widths = [first_conv(branch).in_channels for branch in branches]
        return [noise(c, max(2, _SIDE >> i)) for i, c in enumerate(widths)]
    return noise(first_conv(old).in_channels, _SIDE)


def first_conv(module: nn.Module) -> nn.Conv2d:
    """Return the first convolution of a module.

    Raises:
        CannotStart: It has none.
    """
    found = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if found is None:
        raise CannotStart(f"{type(module).__name__}: expected a layer with convolutions")
    return found


def plain(conv: object, k: int | None = None) -> Conv:
    """Return Ultralytics' ``Conv`` of stride 1 with a batch norm, as it is trained.

    Raises:
        CannotStart: It is something else.
    """
    if not isinstance(conv, Conv) or not isinstance(getattr(conv, "bn", None), nn.BatchNorm2d):
        raise CannotStart(f"{type(conv).__name__}: expected a Conv with batch norm")
    c = conv.conv
    size = c.kernel_size[0]
    if c.stride != (1, 1) or c.padding != (size // 2, size // 2) or c.dilation != (1, 1) or c.bias is not None:
        raise CannotStart(f"{c}: expected stride 1, no dilation and no bias")
    if k is not None and size != k:
        raise CannotStart(f"{c}: expected kernel {k}")
    return conv


def take_rows(new: Conv, old: Conv, rows: torch.Tensor, columns: torch.Tensor | None = None) -> None:
    """Copy some output channels of a trained ``Conv``, and of their weights those of some input channels."""
    weight = old.conv.weight[rows]
    new.conv.weight.copy_(weight if columns is None else weight[:, columns])
    set_norm(new.bn, *_norm(old, rows))


def take_fit(new: Conv, old: Conv, rows: torch.Tensor, fit: Fit) -> None:
    """Set a ``Conv`` to weights that were fitted to the sums of some output channels of a trained one."""
    new.conv.weight.copy_(fit.weight.view_as(new.conv.weight))
    mean, var, gain, bias = _norm(old, rows)
    set_norm(new.bn, mean - fit.shift.float(), var * fit.share.float(), gain, bias)


def _norm(old: Conv, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean, variance, gain and bias of some channels of a trained batch norm, as `set_norm` takes them."""
    bn = old.bn
    mean, var = bn.running_mean[rows], bn.running_var[rows]
    return mean, var, bn.weight[rows] * (var + bn.eps).rsqrt(), bn.bias[rows]


def refit(
    new: Conv,
    old: Conv,
    seen: torch.Tensor,
    was_seen: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor | None = None,
) -> None:
    """Fit a ``Conv`` to the sums of a trained one.

    Args:
        new: The convolution, of any kernel up to stride 1.
        old: The trained one.
        seen: (N, c, H, W) what the new one sees.
        was_seen: What the trained one sees.
        rows: Its output channels that the new one makes.
        columns: Those of its input channels that stand where the new one's are; None where they do not correspond.
    """
    k = new.conv.kernel_size[0]
    places = sites(seen, new.conv.weight[0].numel())
    target = places.values(old.conv(was_seen))[:, rows]
    near = None if columns is None else old.conv.weight[rows][:, columns].flatten(1)
    take_fit(new, old, rows, fitted_to(places.windows(seen, k), target, near))


def all_of(conv: Conv) -> torch.Tensor:
    """Return the numbers of the output channels of a ``Conv``."""
    return torch.arange(conv.conv.out_channels, device=conv.conv.weight.device)


@on_copies
def inherit_c2f(new: Any, old: Any, inputs: Input) -> None:
    """Keep the repeats, the channels between the outer convolutions and those in the bottlenecks that matter most."""
    assert isinstance(inputs, torch.Tensor)
    theirs = _bottlenecks(old, inputs.shape[1], new.cv2.conv.out_channels)
    mine = _bottlenecks(new, inputs.shape[1], new.cv2.conv.out_channels)
    if len(mine) > len(theirs) or new.c > old.c or any(m.add != t.add for m, t in itertools.product(mine, theirs)):
        raise CannotStart(f"{type(old).__name__}: expected as many repeats and channels, and the same shortcut")
    if any(m.cv1.conv.out_channels > t.cv1.conv.out_channels for m, t in itertools.product(mine, theirs)):
        raise CannotStart(f"{type(old).__name__}: expected bottlenecks that are as wide")
    if any(b.cv2.conv.groups != 1 for b in (*mine, *theirs)):
        raise CannotStart(f"{type(old).__name__}: expected bottlenecks without groups")
    a, b = old.cv1(inputs).chunk(2, 1)
    places = sites(inputs, old.cv2.conv.in_channels)
    whole = torch.cat([a, *_through(theirs, b)], 1)
    target = places.values(old.cv2.conv(whole))
    weight = old.cv2.conv.weight.flatten(1).double()
    while len(theirs) > len(mine):
        shorter = [theirs[:i] + theirs[i + 1 :] for i in range(len(theirs))]
        fits = [fitted_to(places.values(torch.cat([a, *_through(s, b)], 1)), target) for s in shorter]
        best = min(range(len(fits)), key=lambda i: fits[i].error)
        theirs, weight = shorter[best], fits[best].weight
    streams = _through(theirs, b)
    c = old.c
    number = torch.arange((1 + len(streams)) * c, device=a.device)
    classes = [(number[:c, None], new.c), (number[c:].view(-1, c).T, new.c)]
    x = places.values(torch.cat([a, *streams], 1))
    ours, stream = kept(x, weight, classes) if new.c < c else (number[:c], number[:c])
    take_rows(new.cv1, old.cv1, torch.cat([ours, c + stream]))
    made = list(new.cv1(inputs).chunk(2, 1))
    for m, t, was in zip(mine, theirs, streams, strict=False):
        inner: torch.Tensor = t.cv1(was)
        at = sites(inner, t.cv2.conv.weight[0].numel())
        hidden = kept_channels(
            at.windows(inner, t.cv2.conv.kernel_size[0]), t.cv2.conv.weight[stream], m.cv1.conv.out_channels
        )
        refit(m.cv1, t.cv1, made[-1], was, hidden, stream)
        refit(m.cv2, t.cv2, m.cv1(made[-1]), inner, stream, hidden)
        made.append(m(made[-1]))
    columns = torch.cat([ours, *(stream + c * (1 + i) for i in range(len(streams)))])
    take_fit(
        new.cv2, old.cv2, all_of(old.cv2), fitted_to(places.values(torch.cat(made, 1)), target, weight[:, columns])
    )


def _through(bottlenecks: list[Any], x: torch.Tensor) -> list[torch.Tensor]:
    """Return a map and what bottlenecks one after the other make of it."""
    found = [x]
    for m in bottlenecks:
        found.append(m(found[-1]))
    return found


def _bottlenecks(block: nn.Module, c1: int, c2: int) -> list[Any]:
    """Return the bottlenecks of a C2f of these channels.

    Raises:
        CannotStart: It is something else.
    """
    found = getattr(block, "m", None)
    if not isinstance(block, C2f) or not isinstance(found, nn.ModuleList):
        raise CannotStart(f"{type(block).__name__}: expected a C2f")
    bottlenecks: list[Any] = list(found)
    if not all(type(m) is Bottleneck for m in bottlenecks):
        raise CannotStart(f"{type(block).__name__}: expected a C2f of bottlenecks")
    for conv in (block.cv1, block.cv2, *(conv for m in bottlenecks for conv in (m.cv1, m.cv2))):
        plain(conv)
    if any(m.cv1.conv.kernel_size != (3, 3) or m.cv2.conv.kernel_size != (3, 3) for m in bottlenecks):
        raise CannotStart(f"{type(block).__name__}: expected bottlenecks of 3x3 convolutions")
    if (block.cv1.conv.in_channels, block.cv2.conv.out_channels) != (c1, c2):
        raise CannotStart(f"{type(block).__name__}: expected {c1} to {c2} channels")
    return bottlenecks


@on_copies
def inherit_conv(new: Any, old: nn.Module, inputs: Input) -> None:
    """Fit one convolution to the sums of the last one of a block."""
    assert isinstance(inputs, torch.Tensor)
    if not isinstance(old, C2f | SPPF):
        raise CannotStart(f"{type(old).__name__}: expected a C2f or SPPF")
    last = plain(old.cv2, 1)
    sizes = (inputs.shape[1], last.conv.out_channels)
    if (new.conv.in_channels, new.conv.out_channels) != sizes or first_conv(old).in_channels != sizes[0]:
        raise CannotStart(f"{type(old).__name__}: expected the same channels")
    seen: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        old(inputs)
    finally:
        handle.remove()
    refit(new, last, inputs, seen[0], all_of(last))


@on_copies
def inherit_sppf(new: Any, old: nn.Module, inputs: Input) -> None:
    """Keep the channels that are pooled which the last convolution needs most."""
    assert isinstance(inputs, torch.Tensor)
    if not isinstance(old, SPPF) or getattr(old, "n", 3) != 3 or getattr(old, "add", False):
        raise CannotStart(f"{type(old).__name__}: expected SPPF of three poolings, without a shortcut")
    first, last = plain(old.cv1, 1), plain(old.cv2, 1)
    mine, out = plain(new.cv1, 1), plain(new.cv2, 1)
    width = mine.conv.out_channels
    c = first.conv.out_channels
    if (mine.conv.in_channels, out.conv.out_channels) != (first.conv.in_channels, last.conv.out_channels) or width > c:
        raise CannotStart(f"{type(old).__name__}: expected the same channels, and as many inside")
    maps = _pooled(old, first(inputs))
    places = sites(inputs, last.conv.in_channels)
    groups = torch.arange(4 * c, device=inputs.device).view(4, c).T
    (rows,) = kept(places.values(maps), last.conv.weight.flatten(1).double(), [(groups, width)])
    take_rows(mine, first, rows)
    refit(out, last, _pooled(new, mine(inputs)), maps, all_of(last), torch.cat([rows + c * i for i in range(4)]))


def _pooled(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what the last convolution of a SPPF takes."""
    pool = block.m
    assert isinstance(pool, nn.Module)
    maps = [x]
    for _ in range(3):
        maps.append(pool(maps[-1]))
    return torch.cat(maps, 1)
