"""Which channels a narrower model keeps, and the weights that it takes over with them.

Channels that are added to each other have to be kept together: a group, as in DepGraph (Fang et al., "DepGraph: Towards
Any Structural Pruning", CVPR 2023, arXiv:2301.12900). In these models additions are inside blocks only, so that the
groups follow from the blocks' own forms: in a C2f with shortcuts, the second half of its split and the outputs of all
its bottlenecks; in a C3, the first branch and those. A group's score is the sum of its members', and the channels with
the highest scores are kept. Every consumer takes the matching input channels: behind a Concat with its offsets.

`torch-pruning` finds such groups for any model by tracing it, at the price of a dependency and of rewriting C2f, whose
split it does not follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas.space.graph import LayerGraph

Scores = Mapping[nn.Module, torch.Tensor]
"""The score of every output channel of a convolution (the host's ``Conv``)."""


@dataclass(frozen=True)
class Kept:
    """The channels of a map that are kept.

    Attributes:
        index: Their places in the wide map, ascending, (kept,) int64.
        count: Number of channels of the wide map.
    """

    index: torch.Tensor
    count: int

    @classmethod
    def best(cls, score: torch.Tensor, count: int) -> Kept:
        """Return the channels with the highest scores, (C,); of equal ones the first."""
        return cls(torch.argsort(score, descending=True, stable=True)[:count].sort().values, len(score))

    @classmethod
    def all_of(cls, count: int) -> Kept:
        """Return all channels."""
        return cls(torch.arange(count), count)

    @classmethod
    def joined(cls, parts: Sequence[Kept]) -> Kept:
        """Return those of concatenated maps."""
        places, offset = [], 0
        for part in parts:
            places.append(part.index + offset)
            offset += part.count
        return cls(torch.cat(places), offset)


def slice_model(wide: Any, narrow: Any, graph: LayerGraph, scores: Scores) -> list[Kept]:
    """Copy into a narrower model the weights of the channels that it keeps, and return those of each layer's output.

    Args:
        wide: A model of the host.
        narrow: The same base at a smaller width multiple, on the CPU.
        graph: The base's layers.
        scores: Of the wide model's convolutions.
    """
    kept: list[Kept] = []
    for row, old, new in zip(graph.rows(), wide.model, narrow.model, strict=True):
        numbers = (row.source,) if isinstance(row.source, int) else row.source
        # -1 is the row before, or the image.
        sources = [kept[s] if s >= 0 else kept[-1] if kept else Kept.all_of(3) for s in numbers]
        with torch.no_grad():
            kept.append(_LAYERS[type(old).__name__](old, new, sources, scores))
    return kept


def _conv(old: Any, new: Any, source: Kept, kept: Kept) -> Kept:
    """Copy a convolution with its BatchNorm, from the kept input channels to the kept output channels."""
    new.conv.weight.copy_(old.conv.weight[kept.index][:, source.index])
    for name, value in new.bn.state_dict().items():
        given = old.bn.state_dict()[name]
        value.copy_(given[kept.index] if given.dim() else given)
    return kept


def _free(old: Any, new: Any, source: Kept, scores: Scores) -> Kept:
    """Copy a convolution whose output channels are in no group with others."""
    return _conv(old, new, source, Kept.best(scores[old], new.conv.out_channels))


def _conv_layer(old: Any, new: Any, sources: Sequence[Kept], scores: Scores) -> Kept:
    return _free(old, new, sources[0], scores)


def _bottlenecks(old: Any, new: Any, first: Kept, scores: Scores) -> list[Kept]:
    """Copy a chain of bottlenecks; return the channels that each keeps. Those with a shortcut keep their input's."""
    every = []
    for wide, narrow in zip(old, new, strict=True):
        hidden = _free(wide.cv1, narrow.cv1, first, scores)
        own = first if wide.add else Kept.best(scores[wide.cv2], narrow.cv2.conv.out_channels)
        first = _conv(wide.cv2, narrow.cv2, hidden, own)
        every.append(first)
    return every


def _with_shortcuts(score: torch.Tensor, bottlenecks: Any, scores: Scores) -> torch.Tensor:
    """Return the score of a group: a map's, and those of the bottlenecks that add to it."""
    for bottleneck in bottlenecks:
        if not bottleneck.add:
            break
        score = score + scores[bottleneck.cv2]
    return score


def _c2f(old: Any, new: Any, sources: Sequence[Kept], scores: Scores) -> Kept:
    left, right = scores[old.cv1].chunk(2)
    passed = Kept.best(left, new.c)
    first = Kept.best(_with_shortcuts(right, old.m, scores), new.c)
    _conv(old.cv1, new.cv1, sources[0], Kept.joined([passed, first]))
    parts = [passed, first, *_bottlenecks(old.m, new.m, first, scores)]
    return _free(old.cv2, new.cv2, Kept.joined(parts), scores)


def _c3(old: Any, new: Any, sources: Sequence[Kept], scores: Scores) -> Kept:
    first = Kept.best(_with_shortcuts(scores[old.cv1], old.m, scores), new.cv1.conv.out_channels)
    _conv(old.cv1, new.cv1, sources[0], first)
    last = [first, *_bottlenecks(old.m, new.m, first, scores)][-1]
    other = _free(old.cv2, new.cv2, sources[0], scores)
    return _free(old.cv3, new.cv3, Kept.joined([last, other]), scores)


def _pyramid(old: Any, new: Any, sources: Sequence[Kept], scores: Scores) -> Kept:
    """Copy an SPP or SPPF: its poolings keep channels apart, so that each part of the Concat keeps the same."""
    hidden = _free(old.cv1, new.cv1, sources[0], scores)
    parts = old.cv2.conv.in_channels // hidden.count
    return _free(old.cv2, new.cv2, Kept.joined([hidden] * parts), scores)


def _same(_old: Any, _new: Any, sources: Sequence[Kept], _scores: Scores) -> Kept:
    return Kept.joined(sources)


def _stage(old: Any, new: Any, source: Kept, scores: Scores) -> Kept:
    """Copy a convolution of a branch, or a depthwise and a 1x1, as every head has with Ultralytics 8.3.0."""
    if isinstance(old, nn.Sequential):
        _conv(old[0], new[0], Kept.all_of(1), source)
        old, new = old[1], new[1]
    return _free(old, new, source, scores)


def _head(old: Any, new: Any, sources: Sequence[Kept], scores: Scores) -> Kept:
    """Copy the branches of every level; the outputs, such as bins of the boxes' sides and classes, are all kept."""
    for name in ("cv2", "cv3", "cv4"):  # the last is that of masks, key points or angles
        if hasattr(old, name):
            for branch, own, source in zip(getattr(old, name), getattr(new, name), sources, strict=True):
                hidden = _stage(branch[0], own[0], source, scores)
                hidden = _stage(branch[1], own[1], hidden, scores)
                own[2].weight.copy_(branch[2].weight[:, hidden.index])
                own[2].bias.copy_(branch[2].bias)
    if hasattr(old, "proto"):
        _prototypes(old.proto, new.proto, sources[0], scores)
    return Kept.all_of(old.no)


def _prototypes(old: Any, new: Any, source: Kept, scores: Scores) -> None:
    """Copy what makes the prototypes of masks, which are all kept.

    The transposed convolution has no score: of its channels those are kept that the next convolution weights most.
    """
    first = _free(old.cv1, new.cv1, source, scores)
    taken = old.cv2.conv.weight.transpose(0, 1).flatten(1).norm(dim=1)
    wide = Kept.best(taken, new.upsample.out_channels)
    new.upsample.weight.copy_(old.upsample.weight[first.index][:, wide.index])
    new.upsample.bias.copy_(old.upsample.bias[wide.index])
    last = _free(old.cv2, new.cv2, wide, scores)
    _conv(old.cv3, new.cv3, last, Kept.all_of(old.cv3.conv.out_channels))


_LAYERS: Mapping[str, Callable[[Any, Any, Sequence[Kept], Scores], Kept]] = {
    "Conv": _conv_layer,
    "C2f": _c2f,
    "C3": _c3,
    "SPP": _pyramid,
    "SPPF": _pyramid,
    "Upsample": _same,
    "Concat": _same,
    "Detect": _head,
    "Segment": _head,
    "Pose": _head,
    "OBB": _head,
}
