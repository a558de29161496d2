"""What the contract is tested on: every registered module, in every kind of place that it fits.

Each entry is built with its defaults for every stride and kernel of `SLOTS` that it fits, and again with every other
value of its flags and texts, the last of numbers with options, and twice the default of optional numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import SPPF, Attention
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect

import nas.ops  # noqa: F401  registers the modules
from nas.ops.heads import head_maps
from nas.ops.registry import Entry, Value, entries, macs_rules

Input: TypeAlias = torch.Tensor | list[torch.Tensor]
"""What a layer of the host gets: a tensor, or a list where its row names several sources."""

C1, C2 = 16, 24
NC, LEVELS = 3, (16, 24, 32)
SLOTS: dict[str, list[dict[str, Value]]] = {
    "same": [{"scale": 2}, {"scale": 4}],
    "conv": [
        {"kernel": 3, "stride": 1},
        {"kernel": 3, "stride": 2},
        {"kernel": 1, "stride": 1},
        {"kernel": 5, "stride": 2},
    ],
    "block": [{"shortcut": True}],
    "guided": [{"scale": 2}, {"scale": 3}],
    "head": [{}],
}
ARGUMENTS = {
    "same": ("c",),
    "conv": ("c1", "c2"),
    "block": ("c1", "c2", "n"),
    "guided": ("c", "c_guide"),
    "head": ("nc", "ch"),
}
CHANNELS: dict[str, tuple[object, ...]] = {
    "same": (C1,),
    "conv": (C1, C2),
    "block": (C1, C2, 2),
    "guided": (C1, C2),
    "head": (NC, LEVELS),
}

REDUNDANT = (
    "conv1x1.bias",
    *("attn.proj.bn.bias", "attn.pe.bn.bias", "ffn.1.bn.bias", "conv.2.cv2.bn.bias"),
)
"""Ends of names of parameters that a later batch norm cancels: of SPConv, kept so that the authors' checkpoints load,
and of Ultralytics' own."""


def slots_of(entry: Entry) -> list[dict[str, Value]]:
    """Return the places that an entry fits; what takes nothing from its place has one."""
    if entry.kinds == {"attention"}:
        return [{"scale": 1}]
    if entry.kinds <= {"pool", "block"} and entry.rule == "conv":
        return [{"kernel": 1, "stride": 1}]
    return [slot for slot in SLOTS[entry.rule] if entry.fits is None or entry.fits(slot)]


class Maps(nn.Module):
    """A head's predictions before boxes are decoded, in one tensor (N, reg_max * 4 + NC, anchors).

    What Ultralytics' own class makes of them, in a model, is tested in tests/ops/test_heads.py.
    """

    def __init__(self, head: Detect) -> None:
        super().__init__()
        head.dfl = nn.Identity()  # weights that do not learn
        del head.stride  # a tensor that Ultralytics sets, and copies itself
        self.head = head

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([torch.cat(pair, 1).flatten(2) for pair in head_maps(self.head, x)], 2)


@dataclass(frozen=True)
class Case:
    """An entry, the slot that it goes into, and what is chosen for it."""

    entry: Entry
    slot: dict[str, Value]
    given: dict[str, Value] = field(default_factory=dict)

    def build(self, *channels: object) -> nn.Module:
        args = self.entry.row_args(self.slot, self.given)
        module = self.entry.cls(*(channels or CHANNELS[self.entry.rule]), *args)
        if self.entry.cls is SPPF:
            module.cv1.act = Conv.default_act  # as parse_model does for rows of the length that ours have
        return Maps(module) if self.entry.rule == "head" else module

    def inputs(self, n: int = 2, h: int = 6, w: int = 9) -> Input:
        if self.entry.rule == "head":
            return [torch.randn(n, c, -(-h // 2**i), -(-w // 2**i)) for i, c in enumerate(LEVELS)]
        x = torch.randn(n, C1, h, w)
        if self.entry.rule != "guided":
            return x
        scale = int(self.slot["scale"])
        return [x, torch.randn(n, C2, h * scale, w * scale)]

    def shape(self, n: int, h: int, w: int) -> tuple[int, ...]:
        if self.entry.rule == "block":
            return (n, C2, h, w)
        if self.entry.rule == "head":
            return (n, 64 + NC, sum(-(-h // 2**i) * -(-w // 2**i) for i in range(len(LEVELS))))
        if self.entry.rule == "conv":
            k, s = (int(self.slot[key]) for key in ("kernel", "stride"))
            return tuple(nn.Conv2d(C1, C2, k, s, k // 2)(torch.zeros(n, C1, h, w)).shape)
        scale = int(self.slot["scale"])
        return (n, C1, h * scale, w * scale)

    def __str__(self) -> str:
        chosen = "".join(f",{k}={v}" for k, v in self.given.items())
        slot = "".join(f"{key[0]}{value}" for key, value in self.slot.items())
        return f"{self.entry.name}({slot}{chosen})"


def _cases() -> list[Case]:
    cases = []
    for entry in entries().values():
        slots = slots_of(entry)
        cases += [Case(entry, slot) for slot in slots]
        for arg in entry.args.values():
            others: list[Value] = [o for o in arg.options if o != arg.default]
            if isinstance(arg.default, bool):
                others = [not arg.default]
            elif not isinstance(arg.default, str):
                others = [2 * arg.default] if arg.optional else others[-1:]
            cases += [Case(entry, slots[0], {arg.name: other}) for other in others]
    return cases


CASES = _cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_entry = pytest.mark.parametrize("entry", entries().values(), ids=lambda e: e.name)


def each(x: Input, change: Callable[[torch.Tensor], torch.Tensor]) -> Input:
    """Return the input with every tensor of it changed."""
    return [change(t) for t in x] if isinstance(x, list) else change(x)


def tensors(x: Input) -> list[torch.Tensor]:
    return x if isinstance(x, list) else [x]


def run(module: nn.Module, x: Input) -> torch.Tensor:
    with torch.no_grad():
        return module(x)


def attended(y: torch.Tensor) -> int:
    """Return the MACs of an nn.MultiheadAttention by its output (N, L, c): four projections, and two products."""
    n, length, c = y.shape
    return n * (4 * length * c**2 + 2 * length**2 * c)


def counted(module: nn.Module, x: Input) -> tuple[int, int]:
    """Return the MACs of convolutions and linears, and of all that the rules state."""
    layers, stated, handles, rules = [0], [0], [], macs_rules()

    def add(m, inputs, output):
        if isinstance(m, nn.Conv1d | nn.Conv2d):
            layers[0] += output.numel() * m.weight[0].numel()
        elif isinstance(m, nn.Linear):
            layers[0] += output.numel() * m.in_features
        elif isinstance(m, nn.MultiheadAttention):
            layers[0] += attended(output[0])
        elif isinstance(m, Attention):  # what the host's counter sees by itself: query times key, weights times value
            n, _, h, w = output.shape
            layers[0] += n * (h * w) ** 2 * m.num_heads * (m.key_dim + m.head_dim)
        rule = next((rules[cls] for cls in type(m).__mro__ if cls in rules), None)
        if rule is not None:
            macs = rule(m, inputs, output)
            assert isinstance(macs, int)
            assert macs > 0
            stated[0] += macs

    for m in module.modules():
        handles.append(m.register_forward_hook(add))
    run(module, x)
    for handle in handles:
        handle.remove()
    return layers[0], stated[0]
