"""What arguments by position mean: to a registered module, and to other classes of its name.

Several modules circulate under one name with other orders of arguments. A row of a model YAML names none of them, so
one that a registered module would read differently from the class that its author had is not read at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.fork.installed import host_version
from nas.fork.names import parameters
from nas.ops.registry import Arg, Entry

_PUBLISHED: dict[str, tuple[str, ...]] = {
    "ECA": ("c", "k_size"),  # github.com/BangguWu/ECANet
    "CBAM": ("c", "kernel_size"),  # Ultralytics, in every release
    "AKConv": ("c1", "c2", "num_param", "stride", "bias"),  # github.com/CV-ZhangXin/AKConv
    "CoordAtt": ("c1", "c2", "reduction"),  # github.com/houqb/CoordAttention
    "ACmix": ("c1", "c2", "kernel", "head"),  # github.com/LeapLabTHU/ACmix
    "DCNv3": ("c1", "c2", "kernel", "stride", "pad", "dilation", "group"),  # github.com/OpenGVLab/InternImage
    "DCNv4": ("c1", "c2", "kernel", "stride", "pad", "dilation", "group"),  # github.com/OpenGVLab/DCNv4
    "DynamicConv": ("c1", "c2", "kernel", "stride", "padding", "dilation", "groups"),  # timm
    "SPDConv": ("c1", "c2", "dimension"),  # github.com/LabSAINT/SPD-Conv
    "DSConv": ("c1", "c2", "kernel", "extend_scope", "morph"),  # github.com/YaoleiQi/DSCNet
}
"""Constructors that circulate under the names of registered modules, in another order than theirs."""

_CHANNELS = {"same": 1, "guided": 2, "conv": 2, "block": 3, "head": 2}
"""Leading parameters that ``parse_model`` gives, by channel rule."""
_SAME = {"k": "kernel", "kernel_size": "kernel", "k_size": "kernel", "ksize": "kernel", "s": "stride", "p": "padding"}
_SAME |= {
    "r": "reduction",
    "ratio": "reduction",
    "pad": "padding",
    "g": "groups",
    "group": "groups",
    "rate": "reduction",
}


def ambiguous(entry: Entry, given: Sequence[object], channels: object = None) -> str:
    """Return why arguments after the channels cannot be taken by position; empty if they can.

    Args:
        entry: The registered module.
        given: The arguments of the row after its channels.
        channels: Output channels of the layer before, as its row has them; None where unknown.
    """
    if not given or entry.native or _all_ours(entry, given):
        return ""
    ours = [p.name for p in entry.params]
    listed = f"[{', '.join(map(str, given))}]"
    if entry.rule == "same" and channels is not None and given[0] == channels and not isinstance(given[0], bool):
        return (
            f"{entry.name} with {listed}: {given[0]} is also the number of channels of the layer before, and the "
            f"registered {entry.name} takes {', '.join(ours) or 'none'}: leave the channels out"
        )
    for whose, theirs in _others(entry):
        if len(given) > len(theirs) and "*" not in theirs:
            continue
        for mine, other in zip(ours[: len(given)], theirs, strict=False):
            if other != "*" and _common(mine) != _common(other):
                return (
                    f"{entry.name} with {listed}: by position, {listed} is {', '.join(theirs)} to {whose} "
                    f"and {', '.join(ours)} to the registered {entry.name}; give the swap by name, such as "
                    f"{entry.name}({ours[0]}=…)"
                )
    return ""


def _all_ours(entry: Entry, given: Sequence[object]) -> bool:
    """Return whether all arguments of the registered module are given, each in its own type, as in rendered rows.

    Optional ones at the end may be left out.
    """
    least = len(entry.params)
    while least and isinstance(last := entry.params[least - 1], Arg) and last.optional:
        least -= 1
    types = [type(p.default) if isinstance(p, Arg) else type(v) for p, v in zip(entry.params, given, strict=False)]
    return len(given) >= least > 1 and [type(v) for v in given] == types


def _others(entry: Entry) -> list[tuple[str, tuple[str, ...]]]:
    """Return who else has a class of this name, and its parameters after the channels."""
    first = _CHANNELS[entry.rule]
    found = []
    host = parameters(entry.name)
    if host is not None:
        found.append((f"the {entry.name} of {host_version()}", host[first:]))
    if entry.name in _PUBLISHED:
        found.append((f"the {entry.name} of most forks", _PUBLISHED[entry.name][_after(entry.name, first) :]))
    return found


def _after(name: str, first: int) -> int:
    """Return how many of a published constructor's parameters are channels."""
    return sum(p in ("c", "c1", "c2") for p in _PUBLISHED[name]) if first < 3 else first


def _common(name: str) -> str:
    return _SAME.get(name, name)
