"""Figures of a registered module at one reference size: for lists and benchmarks, not for the cost of a variant."""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from nas.ops.registry import Entry, Value
from nas.own.files import files_of
from nas.space.bases import load_base

if TYPE_CHECKING:
    from torch import nn

CHANNELS = 64
SIDE = 40
"""Pixels a side of the input."""
WHERE = f"{CHANNELS} to {CHANNELS} channels, input of {SIDE} x {SIDE} pixels"
HEAD_WHERE = "80 classes, and maps of 80, 40 and 20 pixels a side with 64, 128 and 256 channels: YOLOv8n at 640 px"
_PLACES: tuple[dict[str, Value], ...] = (
    {"kernel": 3, "stride": 1},
    {"kernel": 3, "stride": 2},
    {"kernel": 1, "stride": 1},
)
_ORDER = ("up", "down", "conv", "block", "pool", "attention", "head")


@dataclass(frozen=True)
class Reference:
    """A module's figures at the reference size.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates of one input, as Ultralytics' counter says with the module's own rule.
        norms: Batch norms.
        folded: How many of these Ultralytics' ``fuse()`` folds into a convolution.
    """

    params: int
    macs: int
    norms: int
    folded: int

    @property
    def fuse(self) -> str:
        """Share of the batch norms that ``fuse()`` folds, in words."""
        if not self.norms:
            return "no norm"
        return "all" if self.folded == self.norms else f"{self.folded} of {self.norms}"


@dataclass(frozen=True)
class Timing:
    """CPU time of a training step of a module, relative to a stock layer; measured by `benchmarks/modules_cpu.py`.

    Attributes:
        ratio: Its time over the layer's.
        layer: The layer that it replaces, or the block that it is inserted after.
    """

    ratio: float
    layer: str

    @property
    def text(self) -> str:
        """The ratio in words, such as ``2.1 x C2f``."""
        return f"{self.ratio:g} x {self.layer}"


@dataclass(frozen=True)
class InEngine:
    """A module in an engine, exported by itself; measured by `benchmarks/modules_engines.py`.

    Attributes:
        failure: Why it does not run there; empty if it does.
        difference: Largest difference from PyTorch's answer, as a share of the largest value; None if it has no answer.
        time: Its time over that of the layer that it replaces, as `Timing`; None if it was not timed.
    """

    failure: str
    difference: float | None
    time: Timing | None

    @property
    def cell(self) -> str:
        """The ratio and how exact it is in a table, such as ``2.1 x, 3e-07``, or that it does not run."""
        return f"{self.time.ratio:.3g} x, {self.difference:.0e}" if self.time else "no"

    @property
    def words(self) -> str:
        """Its time and how exact it is, or why it does not run."""
        if self.time is None:
            return f"no: {self.failure}"
        return f"{self.time.ratio:.3g} x {self.time.layer}, equal to {self.difference:.0e}"


@functools.cache
def _stored(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((resources.files("nas.model") / name).read_text(encoding="utf-8"))
    return body


def _timed() -> dict[str, Any]:
    return _stored("modules_cpu.json")


SIZES = "modules_size.json"
"""The figures of the modules that ship, a file of this package. `tests/ops/test_list.py` measures and rewrites it."""


def figures_of(entry: Entry) -> Reference:
    """Return the stored figures of a module, which need no torch; of a user's module, measure them."""
    found = _stored(SIZES).get(entry.name) if is_shipped(entry) else None
    return Reference(**found) if found else measure_module(entry)


def timing(entry: Entry) -> Timing | None:
    """Return the measured time of a module; None for a user's module."""
    found = _timed()["modules"].get(entry.name) if is_shipped(entry) else None
    return found and Timing(found["time"], found["beside"])


def timed_how() -> str:
    """Return how the times were measured."""
    return str(_timed()["how"])


def engines_how() -> dict[str, str]:
    """Return by engine how its figures were measured: the machine and all versions."""
    return {name: str(body["on"]) for name, body in _stored("modules_engines.json").items()}


def in_engines(entry: Entry) -> dict[str, InEngine]:
    """Return the figures of a module by engine; empty for a user's module."""
    found = {}
    for name, body in _stored("modules_engines.json").items():
        if is_shipped(entry) and (one := body["modules"].get(entry.name)):
            timed = one.get("time") and Timing(one["time"], one["beside"])
            found[name] = InEngine(one["failure"], one.get("difference"), timed or None)
    return found


def is_shipped(entry: Entry) -> bool:
    """Return whether a module ships with the tool, and is not from a user's file."""
    return not files_of([entry.name])


def kinds_of(entry: Entry) -> str:
    """Return the kinds of slot that a module fits, in one order for all."""
    return ", ".join(sorted(entry.kinds, key=_ORDER.index))


def in_order(entry: Entry) -> tuple[int, str]:
    """Return a sort key: the first kind of slot that a module fits."""
    return min(map(_ORDER.index, entry.kinds)), kinds_of(entry)


def example(entry: Entry) -> tuple[nn.Module, Any]:
    """Return a module at the reference size, with an input of one image."""
    import torch

    place = next((p for p in _PLACES if entry.fits is None or entry.fits(p)), _PLACES[0])
    slot: dict[str, Value] = {"scale": 2, "shortcut": True, **place}
    c = CHANNELS
    if entry.rule == "head":
        levels = (c, 2 * c, 4 * c)
        maps = [torch.randn(1, width, 2 * SIDE >> i, 2 * SIDE >> i) for i, width in enumerate(levels)]
        return entry.cls(80, levels, *entry.row_args({}, {})), maps
    channels = {"same": (c,), "conv": (c, c), "block": (c, c, 1), "guided": (c, c)}[entry.rule]
    x = torch.randn(1, c, SIDE, SIDE)
    inputs = [x, torch.randn(1, c, 2 * SIDE, 2 * SIDE)] if entry.rule == "guided" else x
    return entry.cls(*channels, *entry.row_args(slot, {})), inputs


def measure_module(entry: Entry) -> Reference:
    """Build a module at the reference size and count it."""
    import torch
    from torch import nn
    from ultralytics.nn.modules.block import RepVGGDW
    from ultralytics.nn.modules.conv import Conv, ConvTranspose, DWConv, RepConv

    from nas.model.host import register_costs

    register_costs()
    state = torch.get_rng_state()
    module, inputs = example(entry)
    torch.set_rng_state(state)
    params = sum(p.numel() for p in module.parameters())
    fusing = [m for m in module.modules() if isinstance(m, (Conv, ConvTranspose, DWConv, RepConv, RepVGGDW))]
    folded = {id(m) for parent in fusing for m in parent.modules() if isinstance(m, nn.BatchNorm2d)}
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    thop = importlib.import_module("thop")
    macs = int(thop.profile(module.eval(), (inputs,), verbose=False)[0])
    return Reference(params, macs, norms, len(folded))


def usage(entry: Entry) -> str:
    """Return a command that puts the module into a model; empty where YOLOv8 has no such slot, or has it there."""
    slots = {
        "up": "neck.up_p4",
        "down": "backbone.down_p3",
        "block": "neck.c2f_p3",
        "pool": "backbone.sppf",
        "attention": "'after backbone.sppf",
        "head": "head.detect",
    }
    slot = next((slots[kind] for kind in _ORDER if kind in entry.kinds and kind in slots), "")
    if not slot or load_base("yolov8")[slot.rpartition(" ")[2]].module == entry.name:
        return ""
    quote = "'" if slot.startswith("'") else ""
    files = "".join(f"--modules {file.name} " for file in files_of([entry.name]))
    return f"nas emit-yaml {files}--swap {slot}={entry.name}{quote} -o out/"
