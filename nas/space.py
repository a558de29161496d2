"""Search spaces: which slots may change, and to what.

A space file is YAML::

    base: yolov8              # a base that ships with the tool
    scale: n
    slots:
      neck.up_*: [keep, CARAFE, {DySample: {style: [lp, pl]}}]     # one slot for each match
      neck.c2f_*: {choices: [keep, C2f_SPConv], tie: true}         # all matches together: one slot
      backbone.down_p2: {choices: [keep, SPConv], enabled: false}  # off until asked for
    forbid:
      - {neck.up_p4: CARAFE, neck.up_p3: keep}                     # no variant with both
    constraints: {max_gflops: 10, max_params: 4000000}

Argument lists multiply out into plain choices, and every slot has ``keep`` (``none`` where something may be inserted),
so that a space is a flat product of categoricals. Reading a file reports all its problems at once, each with its line.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from nas.errors import SpaceError
from nas.graph import LayerGraph, bases, load_base
from nas.ops.registry import did_you_mean
from nas.variant import AFTER, KEEP, NONE, Variant, make_choice, make_variant, match_slots, misfit, parse_choice

_KEYS = ("base", "scale", "slots", "forbid", "constraints")
_SLOT_KEYS = ("choices", "tie", "enabled")
_LIMITS = ("max_gflops", "max_params")
_MOST_CHOICES = 200


@dataclass(frozen=True)
class Slot:
    """One categorical of a space.

    Attributes:
        key: The layer's name, or the glob of layers that are swapped together.
        layers: The layers that it swaps (``after NAME`` where it inserts).
        choices: Labels; the first is ``keep`` or ``none``.
        enabled: Whether the search may change it.
    """

    key: str
    layers: tuple[str, ...]
    choices: tuple[str, ...]
    enabled: bool = True


@dataclass(frozen=True)
class SearchSpace:
    """A checked space.

    Attributes:
        name: The file's stem.
        base: Name of the base.
        scale: Scale letter.
        slots: In order of the file.
        forbid: Assignments (slot to label, globs allowed in both) of which no variant may hold all.
        limits: ``max_gflops`` (at 640 px, Ultralytics' convention) and ``max_params``.
    """

    name: str
    base: str
    scale: str
    slots: tuple[Slot, ...]
    forbid: tuple[tuple[tuple[str, str], ...], ...] = ()
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def active(self) -> tuple[Slot, ...]:
        """The slots that the search may change."""
        return tuple(slot for slot in self.slots if slot.enabled)

    @property
    def size(self) -> int:
        """How many variants the active slots span, the forbidden ones included."""
        return math.prod(len(slot.choices) for slot in self.active)

    @property
    def graph(self) -> LayerGraph:
        """The base's layers."""
        return load_base(self.base)

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
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """Return the space that `to_json` wrote."""
        body = json.loads(text)
        return cls(
            body["name"],
            body["base"],
            body["scale"],
            tuple(Slot(k, tuple(ls), tuple(cs), e) for k, ls, cs, e in body["slots"]),
            tuple(tuple((slot, label) for slot, label in rule) for rule in body["forbid"]),
            tuple(sorted(body["limits"].items())),
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes what can be found; the name does not."""
        return hashlib.sha256(replace(self, name="").to_json().encode()).hexdigest()[:16]

    def variant(self, assignment: Mapping[str, str]) -> Variant:
        """Return the variant of slot key to label; what is not assigned is kept."""
        by_key = {slot.key: slot for slot in self.slots}
        swaps = {layer: label for key, label in assignment.items() for layer in by_key[key].layers}
        return make_variant(self.base, self.scale, swaps)

    def forbids(self, assignment: Mapping[str, str]) -> bool:
        """Whether a rule of `forbid` holds for the assignment."""
        return any(
            all(
                any(_matches(key, slot) and _matches(label, choice) for key, label in assignment.items())
                for slot, choice in rule
            )
            for rule in self.forbid
        )

    def baseline(self) -> dict[str, str]:
        """Return the assignment that keeps everything."""
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
        """Return the space with slots switched on that the file has off; a key may be a glob.

        Raises:
            SpaceError: A key matches no slot.
        """
        for key in keys:
            if not any(_matches(slot.key, key) for slot in self.slots):
                raise SpaceError(f"{self.name} has no slot {key!r}{did_you_mean(key, {s.key: s for s in self.slots})}")
        on = (replace(s, enabled=s.enabled or any(_matches(s.key, k) for k in keys)) for s in self.slots)
        return replace(self, slots=tuple(on))

    def with_limits(self, **limits: float | None) -> SearchSpace:
        """Return the space with other limits; None leaves one as it is."""
        given = {k: v for k, v in limits.items() if v is not None}
        return replace(self, limits=tuple(sorted({**dict(self.limits), **given}.items())))

    def with_scale(self, scale: str) -> SearchSpace:
        """Return the space at another scale."""
        make_variant(self.base, scale, {})
        return replace(self, scale=scale)


def shipped() -> tuple[str, ...]:
    """Return the names of the spaces that ship with the tool."""
    folder = resources.files("nas.studies.spaces")
    return tuple(sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_space(name: str) -> SearchSpace:
    """Read a space file, or one that ships with the tool by its name.

    Raises:
        SpaceError: There is no such file, or it has problems; all of them, each with file and line.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"cannot read the space file {name}: {error}") from None
        return read_space(text, str(path), path.stem)
    if name not in shipped():
        hint = did_you_mean(name, dict.fromkeys(shipped()))
        raise SpaceError(f"no space named {name!r}{hint}; or give a file that ends in .yaml")
    text = (resources.files("nas.studies.spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    return read_space(text, f"{name}.yaml", name)


def read_space(text: str, file: str, name: str) -> SearchSpace:
    """Read a space from text; `file` stands in messages.

    Raises:
        SpaceError: All problems, one a line, each with file and line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SpaceError(f"{file}: not YAML: {error}") from None
    reader = _Reader(file)
    space = reader.read(root, name)
    if reader.problems or space is None:
        raise SpaceError("\n".join(text for _, text in sorted(reader.problems)))
    return space


def _matches(name: str, pattern: str) -> bool:
    """Whether a glob names something; a key may itself hold brackets."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


class _Reader:
    """Walks a composed YAML tree, which knows its lines, and collects problems instead of stopping at one."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[tuple[int, str]] = []

    def problem(self, node: yaml.Node | None, text: str) -> None:
        line = node.start_mark.line + 1 if node else 1
        self.problems += [(line, f"{self.file}:{line}: {part}") for part in text.splitlines()]

    def mapping(
        self, node: yaml.Node, what: str, known: tuple[str, ...] = ()
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key to (key node, value node); unknown and double keys are problems."""
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, f"{what}: expected a mapping (key: value)")
            return {}
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in found:
                self.problem(
                    key_node,
                    f"{what}: {key!r} stands here twice; the first is on line {found[key][0].start_mark.line + 1}",
                )
            elif known and key not in known:
                self.problem(key_node, f"{what}: unknown key {key!r}{did_you_mean(key, dict.fromkeys(known))}")
            else:
                found[key] = (key_node, value_node)
        return found

    def value(self, node: yaml.Node) -> Any:
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            self.problem(node, f"cannot read this value: {error}")
            return None

    def read(self, root: yaml.Node | None, name: str) -> SearchSpace | None:
        if root is None:
            self.problem(None, "the file is empty; a space has base, scale and slots")
            return None
        top = self.mapping(root, "a space", _KEYS)
        base = str(self.value(top["base"][1])) if "base" in top else "yolov8"
        scale = str(self.value(top["scale"][1])) if "scale" in top else "n"
        if base not in bases():
            self.problem(top["base"][1], f"unknown base {base!r}{did_you_mean(base, dict.fromkeys(bases()))}")
            return None
        graph = load_base(base)
        if scale not in graph.scales:
            self.problem(top["scale"][1], f"{base} has no scale {scale!r}; its scales: {', '.join(graph.scales)}")
        if "slots" not in top:
            self.problem(root, "a space needs slots")
            return None
        slots = self.slots(top["slots"][1], graph)
        forbid = self.forbid(top["forbid"][1], slots) if "forbid" in top else ()
        limits = self.limits(top["constraints"][1]) if "constraints" in top else ()
        return SearchSpace(name, base, scale, tuple(slots), forbid, limits)

    def slots(self, node: yaml.Node, graph: LayerGraph) -> list[Slot]:
        slots: list[Slot] = []
        taken: dict[str, str] = {}
        for key, (key_node, value_node) in self.mapping(node, "slots").items():
            spec = {"choices": value_node}
            if isinstance(value_node, yaml.MappingNode):
                spec = {k: v for k, (_, v) in self.mapping(value_node, key, _SLOT_KEYS).items()}
            tie, enabled = (self.flag(spec, name, default) for name, default in (("tie", False), ("enabled", True)))
            try:
                layers = match_slots(graph, key)
            except SpaceError as error:
                self.problem(key_node, str(error))
                layers = ()
            if "choices" not in spec:
                self.problem(key_node, f"{key}: no choices")
                continue
            choices = self.choices(spec["choices"], key)
            for layer in layers:
                if layer in taken:
                    self.problem(key_node, f"{layer} is in two slots: {taken[layer]!r} and {key!r}")
                taken[layer] = key
            self.fits(spec["choices"], graph, layers, choices)
            groups = [(key, layers)] if tie and layers else [(layer, (layer,)) for layer in layers]
            slots += [Slot(name, group, choices, enabled) for name, group in groups]
        if not any(slot.enabled for slot in slots) and not self.problems:
            self.problem(node, "no slot is on: nothing can be searched")
        return slots

    def flag(self, spec: Mapping[str, yaml.Node], key: str, default: bool) -> bool:
        if key not in spec:
            return default
        value = self.value(spec[key])
        if not isinstance(value, bool):
            self.problem(spec[key], f"{key}: {value!r}; expected true or false")
            return default
        return value

    def choices(self, node: yaml.Node, key: str) -> tuple[str, ...]:
        """Return the labels of a slot, `keep` first, argument lists multiplied out."""
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, f"{key}: expected a list of choices")
            return ()
        first = NONE if key.startswith(AFTER) else KEEP
        labels = [first]
        for item in node.value:
            if isinstance(item, yaml.ScalarNode) and item.value in (KEEP, NONE):
                if item.value != first:
                    self.problem(item, f"{key}: {item.value!r} here; this slot's own choice is {first!r}")
                continue
            for label in self.multiply(item):
                if label in labels:
                    self.problem(item, f"{key}: {label} stands here twice (arguments at their defaults are left out)")
                else:
                    labels.append(label)
        if len(labels) == 1:
            self.problem(node, f"{key}: no choice besides {first!r}")
        if len(labels) > _MOST_CHOICES:
            self.problem(node, f"{key}: {len(labels)} choices; at most {_MOST_CHOICES} make sense in one slot")
        return tuple(labels)

    def multiply(self, item: yaml.Node) -> list[str]:
        """Return the labels of one entry of a list of choices."""
        try:
            if isinstance(item, yaml.ScalarNode):
                return [parse_choice(str(item.value)).label]
        except SpaceError as error:
            close = did_you_mean(str(item.value), {KEEP: 1, NONE: 1})
            self.problem(item, str(error) if "known" in close else f"unknown choice {item.value!r}{close}")
            return []
        if not isinstance(item, yaml.MappingNode) or len(item.value) != 1:
            self.problem(item, "expected a module's name, or {module: {argument: value or list of values}}")
            return []
        module, args = str(item.value[0][0].value), self.value(item.value[0][1])
        if not isinstance(args, dict):
            self.problem(item, f"{module}: expected arguments, such as {{{module}: {{argument: [values]}}}}")
            return []
        lists = {k: v if isinstance(v, list) else [v] for k, v in args.items()}
        for name in (k for k, v in lists.items() if not v):
            self.problem(item, f"{module}: {name} has an empty list of values")
        labels = []
        for values in itertools.product(*lists.values()):
            try:
                labels.append(make_choice(module, dict(zip(lists, values, strict=True))).label)
            except SpaceError as error:
                self.problem(item, str(error))
                if "no argument" in str(error) or "unknown module" in str(error):
                    break
        return labels

    def fits(self, node: yaml.Node, graph: LayerGraph, layers: tuple[str, ...], choices: tuple[str, ...]) -> None:
        for label in choices[1:]:
            wrong: dict[str, list[str]] = {}
            for layer in layers:
                name = layer.removeprefix(AFTER)
                why = misfit(graph[name], parse_choice(label), inserted=layer.startswith(AFTER))
                wrong.setdefault(why, []).append(layer)
            for why, where in wrong.items():
                if why:
                    self.problem(node, f"{', '.join(where)}: {why}")

    def forbid(self, node: yaml.Node, slots: list[Slot]) -> tuple[tuple[tuple[str, str], ...], ...]:
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, "forbid: expected a list of {slot: choice, ...}")
            return ()
        rules = []
        for item in node.value:
            rule = self.mapping(item, "forbid")
            for key, (key_node, value_node) in rule.items():
                matched = [s for s in slots if _matches(s.key, key)]
                label = str(value_node.value)
                if not matched:
                    self.problem(key_node, f"forbid: no slot {key!r}{did_you_mean(key, {s.key: s for s in slots})}")
                elif not any(_matches(c, label) for s in matched for c in s.choices):
                    known = dict.fromkeys(c for s in matched for c in s.choices)
                    self.problem(value_node, f"forbid: {key} has no choice {label!r}{did_you_mean(label, known)}")
            rules.append(tuple((key, str(value.value)) for key, (_, value) in rule.items()))
        return tuple(rules)

    def limits(self, node: yaml.Node) -> tuple[tuple[str, float], ...]:
        limits = {}
        for key, (_, value_node) in self.mapping(node, "constraints", _LIMITS).items():
            value = self.value(value_node)
            if isinstance(value, str):  # YAML 1.1 reads 4e6 as text
                with contextlib.suppress(ValueError):
                    value = float(value)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                self.problem(value_node, f"constraints: {key}={value!r}; expected a number above 0")
            else:
                limits[key] = float(value)
        return tuple(sorted(limits.items()))
