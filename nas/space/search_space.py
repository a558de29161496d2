"""Search spaces: slots and their choices.

A space is a flat product of categoricals: every slot has ``keep`` (``none`` where something may be inserted) and its
other choices as plain labels. `nas.space.space_file` reads one from YAML.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from nas.errors import SpaceError
from nas.files import dataclass_from_plain, parse_json
from nas.ops.registry import did_you_mean
from nas.own.files import ModuleFile
from nas.space.bases import base_text, load_base, use_base
from nas.space.choice import KEEP
from nas.space.graph import LayerGraph, with_letter
from nas.space.safe_text import check_variant_text
from nas.space.variant import Variant, make_variant


@dataclass(frozen=True)
class Slot:
    """One categorical of a space.

    Attributes:
        key: The layer's name, or the glob of layers that are swapped together.
        layers: The layers that it swaps (``after NAME`` where it inserts).
        choices: Labels; the first is ``keep`` or ``none``.
        enabled: Whether the search changes it.
    """

    key: str
    layers: tuple[str, ...]
    choices: tuple[str, ...]
    enabled: bool = True


_MODULE_FILE = re.compile(r"[A-Za-z_]\w{0,99}\.py", re.ASCII)


@dataclass(frozen=True)
class _Stored:
    """A space as `SearchSpace.to_json` writes it, without its module files."""

    name: str
    base: str
    scale: str
    slots: tuple[tuple[str, tuple[str, ...], tuple[str, ...], bool], ...]
    forbid: tuple[tuple[tuple[str, str], ...], ...]
    limits: Mapping[str, float]


@dataclass(frozen=True)
class SearchSpace:
    """A checked space.

    Attributes:
        name: The file's stem.
        base: Name of the base.
        scale: Scale letter.
        slots: In order of the file.
        forbid: Partial assignments (slot to label, globs allowed in both) that no variant may contain.
        limits: ``max_gflops`` (at 640 px, Ultralytics' convention), ``max_params``, ``max_latency_ms`` (on the study's
            machine, at its image size) and ``min_map`` (mAP50-95).
        modules: Files of own modules, with their texts: the searched code is the emitted code. `nas.own.use` registers
            them; reading a space file does so.
        left_out: A line for each slot of the file that was left out, and why; it is not stored.
    """

    name: str
    base: str
    scale: str
    slots: tuple[Slot, ...]
    forbid: tuple[tuple[tuple[str, str], ...], ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    modules: tuple[ModuleFile, ...] = ()
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def active(self) -> tuple[Slot, ...]:
        """The slots that the search may change."""
        return tuple(slot for slot in self.slots if slot.enabled)

    @property
    def size(self) -> int:
        """Number of variants of the active slots, including forbidden ones."""
        return math.prod(len(slot.choices) for slot in self.active)

    @property
    def graph(self) -> LayerGraph:
        """The base's layers."""
        return load_base(self.base)

    @property
    def stock(self) -> str:
        """The name of the stock model, such as ``yolov8n-seg``."""
        return with_letter(self.base, self.scale)

    @property
    def width(self) -> float:
        """The width multiple of its scale; 1 for a base of one size."""
        scales = self.graph.scales
        return scales[self.scale][1] if self.scale in scales else 1.0

    def to_json(self) -> str:
        """Return the space as text that `from_json` reads; equal spaces give equal text."""
        body = {
            "base": self.base,
            "scale": self.scale,
            "slots": [[s.key, list(s.layers), list(s.choices), s.enabled] for s in self.slots],
            "forbid": [[list(pair) for pair in rule] for rule in self.forbid],
            "limits": dict(self.limits),
            "name": self.name,
        }
        if text := base_text(self.base):
            body["base_text"] = text
        if self.modules:
            body["modules"] = [[file.name, file.text] for file in self.modules]
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """Return the space that `to_json` wrote; its texts, which may be of others, are checked.

        Raises:
            SpaceError: It is not such a text, or has a text that is no name.
        """
        try:
            body = parse_json(text)
            own_text = body.pop("base_text", "")
            files = tuple(ModuleFile(name, code) for name, code in body.pop("modules", ()))  # their texts as they are
            stored = dataclass_from_plain(_Stored, body, "space")
            if not all(isinstance(f.text, str) and _MODULE_FILE.fullmatch(f.name) for f in files):
                raise ValueError("a module file has a name that none has, or no text")
            if not all(choices and layers for _, layers, choices, _ in stored.slots):
                raise ValueError("a slot has no choices, or no layers")
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise SpaceError(f"the stored space is damaged: {error}") from None
        pairs = {(key, label) for key, _, choices, _ in stored.slots for label in choices}
        pairs |= {(layer, KEEP) for _, layers, _, _ in stored.slots for layer in layers}
        check_variant_text(stored.base, stored.scale, tuple(pairs))
        if own_text:
            use_base(stored.base, str(own_text))
        slots = tuple(Slot(*slot) for slot in stored.slots)
        limits = tuple(sorted(stored.limits.items()))
        return cls(stored.name, stored.base, stored.scale, slots, stored.forbid, limits, files)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of everything that defines the variants; the name does not count."""
        return hashlib.sha256(replace(self, name="").to_json().encode()).hexdigest()[:16]

    def variant(self, assignment: Mapping[str, str]) -> Variant:
        """Return the variant of slot key to label; slots without a label are kept."""
        by_key = {slot.key: slot for slot in self.slots}
        swaps = {layer: label for key, label in assignment.items() for layer in by_key[key].layers}
        return make_variant(self.base, self.scale, swaps)

    def forbids(self, assignment: Mapping[str, str]) -> bool:
        """Return whether a rule of `forbid` matches the assignment."""
        return any(
            all(
                any(matches(key, slot) and matches(label, choice) for key, label in assignment.items())
                for slot, choice in rule
            )
            for rule in self.forbid
        )

    def baseline(self) -> dict[str, str]:
        """Return the assignment that keeps every layer."""
        return {slot.key: slot.choices[0] for slot in self.active}

    def single_swaps(self) -> list[dict[str, str]]:
        """Return every allowed assignment that changes one slot.

        The order spreads a small budget: each pass visits every slot once, and neighbours try different modules.
        """
        found = []
        for turn in range(max((len(s.choices) - 1 for s in self.active), default=0)):
            for i, slot in enumerate(self.active):
                others = slot.choices[1:]
                if turn < len(others):
                    assignment = self.baseline() | {slot.key: others[(i + turn) % len(others)]}
                    if not self.forbids(assignment):
                        found.append(assignment)
        return found

    def assignments(self) -> Iterator[dict[str, str]]:
        """Iterate over every allowed assignment of the active slots."""
        keys = [slot.key for slot in self.active]
        for labels in itertools.product(*(slot.choices for slot in self.active)):
            assignment = dict(zip(keys, labels, strict=True))
            if not self.forbids(assignment):
                yield assignment

    def enable(self, keys: tuple[str, ...]) -> SearchSpace:
        """Return the space with further slots enabled; a key may be a glob.

        Raises:
            SpaceError: A key matches no slot.
        """
        for key in keys:
            if not any(matches(slot.key, key) for slot in self.slots):
                raise SpaceError(f"{self.name} has no slot {key!r}{did_you_mean(key, {s.key: s for s in self.slots})}")
        on = (replace(s, enabled=s.enabled or any(matches(s.key, k) for k in keys)) for s in self.slots)
        return replace(self, slots=tuple(on))

    def with_limits(self, **limits: float | None) -> SearchSpace:
        """Return the space with other limits; None keeps one."""
        given = {k: v for k, v in limits.items() if v is not None}
        return replace(self, limits=tuple(sorted({**dict(self.limits), **given}.items())))

    def with_scale(self, scale: str) -> SearchSpace:
        """Return the space at another scale."""
        make_variant(self.base, scale, {})
        return replace(self, scale=scale)


def matches(name: str, pattern: str) -> bool:
    """Return whether a name equals a pattern or matches it as a glob; names may have brackets."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


Assignment: TypeAlias = Mapping[str, str]

Key: TypeAlias = tuple[tuple[str, str], ...]


def key_of(assignment: Assignment) -> Key:
    """Return the assignment as a dictionary key."""
    return tuple(sorted(assignment.items()))
