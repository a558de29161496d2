"""The registry of modules that a search may swap in.

A module is registered once, by the decorator beside its class. Its entry says what the rest of the tool needs to know
and nothing else does: which slots it fits, how its constructor gets its channels, which arguments it takes within which
bounds, and where it was published. Registering a module gives it the contract tests, a row in ``nas ops`` and a place
in spaces.

``modules.json`` lists what is registered here, without the classes: a command that only reads names and arguments needs
no torch. In a process that has torch, `nas.ops.families` is imported, and what its files register counts.

MACs that PyTorch modules spend outside child modules (a sampling, a product with computed weights) are stated by
`counts_macs`, beside the class that spends them.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

from nas.ops.lacking import has_stand_in, stand_ins

Value: TypeAlias = int | float | bool | str
"""A value that a module's argument may take in a space file or a model YAML."""

SlotKind = Literal["up", "down", "conv", "block", "attention", "pool", "head"]
ChannelRule = Literal["same", "conv", "block", "guided", "head"]
"""How ``parse_model`` calls a constructor: ``same`` (c, ...), ``conv`` (c1, c2, ...), ``block`` (c1, c2, n, ...),
``guided`` (c, c_guide, ...), ``head`` (nc, ch, ...). A guided module takes a list of two maps, its layer's input with c
channels and a guide of its output's size with c_guide channels, and puts out c channels. A head is a subclass of
Ultralytics' ``Detect``; it takes the number of classes and the channels of its levels."""

MacsRule: TypeAlias = "Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], int]"
"""(module, its forward's positional inputs, its output) -> multiply-accumulates spent outside its child modules. The
input of a guided module is one list."""

Start: TypeAlias = "Callable[[nn.Module, nn.Module], None]"
"""(the new module, the trained layer that it replaces): sets the new module's parameters and statistics."""

Input: TypeAlias = "torch.Tensor | list[torch.Tensor]"
"""What a layer takes: a map (N, C, H, W), or a list of maps where its row names several sources."""

Inherit: TypeAlias = "Callable[[nn.Module, nn.Module, Input | None], None]"
"""(the new module, the trained layer that it replaces, that layer's input on images, or None): as `Start`, by what the
layer sees; see `nas.ops.shrink`."""

ModuleT = TypeVar("ModuleT", bound="type[nn.Module]")


@dataclass(frozen=True)
class Arg:
    """One argument that a search may set.

    Attributes:
        name: Constructor parameter.
        default: Value where a choice does not say; its type is the argument's type.
        help: What it does, in a few words.
        low: Smallest value allowed, for numbers.
        high: Largest value allowed, for numbers.
        odd: Whether only odd integers are allowed.
        options: The only values allowed: always for strings, for numbers in place of bounds.
        optional: Whether a row of a model YAML leaves it out where it, and all that follow it, have their defaults. For
            arguments that a module gets later: rows stay what they were.
    """

    name: str
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    odd: bool = False
    options: tuple[Value, ...] = ()
    optional: bool = False

    @property
    def accepts(self) -> str:
        """Say in words which values the argument takes."""
        if self.options:
            return "one of " + ", ".join(map(str, self.options))
        if isinstance(self.default, bool):
            return "true or false"
        kind = "an odd whole number" if self.odd else "a whole number" if isinstance(self.default, int) else "a number"
        if self.low is not None and self.high is not None:
            return f"{kind} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{kind}, at least {self.low:g}"
        return kind

    def check(self, value: object) -> Value:
        """Return `value` in the argument's own type.

        Raises:
            ValueError: The value is of another type or out of bounds; the message says what would do.
        """
        wrong = ValueError(f"{self.name}={value!r}: expected {self.accepts}")
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise wrong
            return value
        if self.options:
            if isinstance(value, bool) or value not in self.options:
                raise wrong
            return self.options[self.options.index(value)]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong
        if isinstance(self.default, int):
            if int(value) != value or (self.odd and int(value) % 2 == 0):
                raise wrong
            value = int(value)
        else:
            value = float(value)
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise wrong
        return value


@dataclass(frozen=True)
class FromSlot:
    """A constructor parameter whose value the replaced layer gives.

    Attributes:
        name: Constructor parameter.
        key: What of the layer: ``scale`` of an upsampler, ``kernel`` or ``stride`` of a convolution, ``shortcut`` of a
            block.
    """

    name: str
    key: Literal["scale", "kernel", "stride", "shortcut"]


REPEATS = Arg("repeats", 0, "repeats in the row, before depth scaling; 0: those of the layer", low=0, high=99)
"""What every choice of a block may set besides its own arguments: fewer repeats than the layer that it replaces."""


@dataclass(frozen=True)
class Entry:
    """A registered module.

    Attributes:
        name: The class's name, which model YAMLs use.
        made: The class; in the list, the name of the Python module that defines it.
        rule: How its constructor gets its channels.
        kinds: The kinds of slot that it fits.
        params: Constructor parameters after the channels (and repeats), in order.
        paper: Where it was published.
        summary: One line.
        requires: What it needs of its place, in words; empty if nothing.
        fits: For a convolution: whether it takes this kernel and stride.
        start: Called as ``start(new, old)`` by `nas.ops.warm_start.apply_start`, without gradients: lets a new module
            start near the trained layer that it replaces; see `nas.ops.warm_start`.
        starts: What it then starts as and how near, one sentence; empty if there is no `start` and no `inherit`.
        inherit: In place of `start`, for a module that is smaller than the layer: called as ``inherit(new, old,
            inputs)`` with maps of the layer's input; see `nas.ops.shrink`.
    """

    name: str
    made: type[nn.Module] | str
    rule: ChannelRule
    kinds: frozenset[SlotKind]
    params: tuple[Arg | FromSlot, ...]
    paper: str
    summary: str
    requires: str = ""
    fits: Callable[[Mapping[str, Value]], bool] | None = None
    start: Start | None = None
    starts: str = ""
    inherit: Inherit | None = None

    @property
    def cls(self) -> type[nn.Module]:
        """The class; imported at first use if the entry is from the list."""
        if not isinstance(self.made, str):
            return self.made
        with stand_ins() if self.made.startswith("nas.ops.") else contextlib.nullcontext():
            found: type[nn.Module] = getattr(importlib.import_module(self.made), self.name)
        return found

    @property
    def source(self) -> str:
        """The name of the Python module that defines the class."""
        return self.made if isinstance(self.made, str) else self.made.__module__

    @property
    def native(self) -> bool:
        """Whether Ultralytics has the class and its ``parse_model`` knows the channels: it needs no registration."""
        return self.source.startswith("ultralytics.")

    @property
    def args(self) -> dict[str, Arg]:
        """The constructor's arguments that a choice may set, by name."""
        return {p.name: p for p in self.params if isinstance(p, Arg)}

    @property
    def choosable(self) -> dict[str, Arg]:
        """All that a choice may set, by name: `args`, and the repeats of a block."""
        return {**self.args, REPEATS.name: REPEATS} if self.rule == "block" else self.args

    def check_args(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return the arguments of `given` that differ from the defaults, checked, in the order of their names.

        Raises:
            ValueError: An unknown argument or a bad value.
        """
        args = self.choosable
        checked: dict[str, Value] = {}
        for name in sorted(given):
            if name not in args:
                raise ValueError(f"{self.name} has no argument {name!r}{did_you_mean(name, args)}")
            try:
                value = args[name].check(given[name])
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
            if value != args[name].default:
                checked[name] = value
        return checked

    def row_args(self, slot: Mapping[str, Value], given: Mapping[str, Value]) -> list[Value]:
        """Return the constructor arguments after the channels, in order: the slot's, the choice's, else the defaults.

        Optional ones at the end are left out while they have their defaults.

        Args:
            slot: What the replaced layer gives (`FromSlot.key` to value).
            given: What the choice sets.
        """
        values = [slot[p.key] if isinstance(p, FromSlot) else given.get(p.name, p.default) for p in self.params]
        for param in reversed(self.params):
            if not isinstance(param, Arg) or not param.optional or values[-1] != param.default:
                break
            values.pop()
        return values


_ENTRIES: dict[str, Entry] = {}
_MACS: dict[type[nn.Module], MacsRule] = {}
_NEEDS: dict[str, tuple[type[nn.Module], ...]] = {}
"""Classes of Ultralytics that a module is made of and does not inherit from."""


def register(
    *,
    rule: ChannelRule,
    kinds: set[SlotKind],
    paper: str,
    summary: str,
    params: tuple[Arg | FromSlot, ...] = (),
    requires: str = "",
    fits: Callable[[Mapping[str, Value]], bool] | None = None,
    start: Start | None = None,
    starts: str = "",
    needs: tuple[type[nn.Module], ...] = (),
    inherit: Inherit | None = None,
) -> Callable[[ModuleT], ModuleT]:
    """Register the decorated module; see `Entry` for the arguments.

    `needs` are classes of Ultralytics that it is made of and does not inherit from. A module is not registered where
    the installed release lacks one of them, or a base class; see `absent`.

    A class of Ultralytics is registered by calling the decorator with it, where ``parse_model`` calls its constructor
    as `rule` says; it is then used as it is, and a model needs no registration for it.

    Raises:
        ValueError: The name is taken by another class, the class is of the script that runs, or what it starts as is
            given without a start, or a start without that, or both `start` and `inherit`, or a head is no ``Detect``.
    """
    if (start is None and inherit is None) != (not starts) or (start is not None and inherit is not None):
        raise ValueError("register: expected a start and what it starts as (`start`, `starts`), or neither")

    def add(cls: ModuleT) -> ModuleT:
        name = cls.__name__
        if cls.__module__ == "__main__":
            raise ValueError(
                f"{name} is defined in the script that runs, where checkpoints and other processes cannot find it: "
                "put it into a file of its own"
            )
        if has_stand_in((*cls.__mro__, *needs)):
            return cls
        if rule == "head" and not any(c.__name__ == "Detect" for c in cls.__mro__):
            raise ValueError(
                f"{name}: a head is a subclass of Ultralytics' Detect, which its models and losses ask for"
            )
        _NEEDS[name] = needs
        known = _ENTRIES.get(name) or _LIST.listed().get(name)
        if known and known.made not in (cls, cls.__module__):
            raise ValueError(f"a module named {name!r} is registered already: {known.cls}")
        words = (paper, summary, requires)
        _ENTRIES[name] = Entry(name, cls, rule, frozenset(kinds), params, *words, fits, start, starts, inherit)
        return cls

    return add


def counts_macs(rule: MacsRule) -> Callable[[ModuleT], ModuleT]:
    """State what the decorated module spends outside its child modules. Subclasses inherit the rule."""

    def add(cls: ModuleT) -> ModuleT:
        _MACS[cls] = rule
        return cls

    return add


def replace(entry: Entry) -> None:
    """Register an entry in place of whatever has its name; for files that are loaded anew."""
    _ENTRIES[entry.name] = entry


def drop(name: str) -> None:
    """Take a module out of the registry, if it is there."""
    _ENTRIES.pop(name, None)


def entries() -> dict[str, Entry]:
    """Return every registered module by name, in the order of registration."""
    if "torch" in sys.modules and "nas.ops.families" not in sys.modules:
        importlib.import_module("nas.ops.families")
    known = {**_LIST.listed(), **_ENTRIES}
    return {name: entry for name, entry in known.items() if name in _ENTRIES} if _COMPLETE else known


def macs_rules() -> dict[type[nn.Module], MacsRule]:
    """Return the cost rules by class."""
    return dict(_MACS)


def get(name: str) -> Entry:
    """Return the entry of a module.

    Raises:
        ValueError: No such module; the message names close matches.
    """
    known = _ENTRIES if name in _ENTRIES else entries()
    if name not in known:
        absent = _LIST.absent()
        if name in absent:
            raise ValueError(f"{name} is not available: the installed Ultralytics has no {absent[name]}")
        raise ValueError(f"unknown module {name!r}{did_you_mean(name, known)}")
    return known[name]


_COMPLETE: list[bool] = []
"""Not empty once all files with modules have been imported."""


def needs_of(name: str) -> tuple[type[nn.Module], ...]:
    """Return the further classes of Ultralytics that a registered module is made of."""
    return _NEEDS.get(name, ())


class _List:
    """The modules that are known without their classes; `nas.ops.listing`, which needs this file, gives them."""

    listed: Callable[[], dict[str, Entry]] = staticmethod(dict)
    absent: Callable[[], dict[str, str]] = staticmethod(dict)


_LIST = _List()


def use_list(listed: Callable[[], dict[str, Entry]], absent: Callable[[], dict[str, str]]) -> None:
    """Take the entries of a list as known, until all files with modules have been imported.

    Args:
        listed: Returns its entries by name.
        absent: Returns the modules that are not available, and the class that the installed Ultralytics lacks.
    """
    _LIST.listed, _LIST.absent = listed, absent


def complete() -> None:
    """Let what is registered count alone, and the list no more."""
    _COMPLETE.append(True)


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """Return a hint for a misspelt name: close matches, or all there is when there is little."""
    lower = {k.lower(): k for k in known}
    close = [lower[m] for m in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if not known:
        return "; there is none"
    listed = sorted(known)
    return f"; known: {', '.join(listed[:12])}{', …' if len(listed) > 12 else ''}"
