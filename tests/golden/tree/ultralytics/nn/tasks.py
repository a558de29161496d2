"""The places that a patch and a snippet look for, and nothing else."""

from math import ceil

from torch import nn


class Concat(nn.Module):
    """Stands for a layer."""


def make_divisible(x, divisor):
    """Round up to a multiple."""
    return ceil(x / divisor) * divisor


def parse_model(d, ch, verbose=True):
    """Find each layer's channels."""
    max_channels, width = d["max_channels"], d["width"]
    base_modules = frozenset({nn.Conv2d})
    for f, n, m, args in d["backbone"] + d["head"]:
        if m in base_modules:
            c1, c2 = ch[f], make_divisible(min(args[0], max_channels) * width, 8)
            args = [c1, c2, n, *args[1:]]
        elif m is Concat:
            c2 = sum(ch[x] for x in f)
        else:
            c2 = ch[f]
        ch.append(c2)
    return ch, args, verbose
