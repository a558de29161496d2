"""Reads space files: YAML with the slots of a search space and their choices.

For example::

    base: yolov8              # another model of the installed Ultralytics, such as yolo11-seg, or my_model.yaml
    scale: n                  # a base of one size, such as yolov9c, has none
    slots:
      neck.up_*: [keep, CARAFE, {DySample: {style: [lp, pl]}}]     # one slot for each match
      neck.c2f_*: {choices: [keep, C2f_SPConv], tie: true}         # all matches together: one slot
      backbone.down_p2: {choices: [keep, SPConv], enabled: false}  # off by default
      neck.c2f_p3: [keep, host:C3, {host:C3k2: [channels, true]}]  # classes that the installed Ultralytics has
      backbone.down_p4: [keep, Narrow(0.75)]                       # three quarters of its output channels
    forbid:
      - {neck.up_p4: CARAFE, neck.up_p3: keep}                     # no variant with both
    constraints: {max_gflops: 10, max_params: 4000000, max_latency_ms: 20, min_map: 0.3}
    modules: [my_block.py]    # own modules, for the choices above; paths are relative to this file

Argument lists expand into plain choices, and every slot has ``keep`` (``none`` where something may be inserted),
so that a space is a flat product of categoricals. Reading a file reports all its problems at once, each with its line.

A slot ``head.detect`` is left out, and a word kept of it, where the base is of another task: its choices are heads of
detection, and a space of ``yolov8`` so works with ``base: yolov8-seg``.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import yaml

from nas.errors import HostError, ModelError, ModuleFileError, SpaceError, shown
from nas.fork.row_text import HOST
from nas.ops.registry import did_you_mean
from nas.own import use
from nas.own.files import ModuleFile, read_file
from nas.own.trust import trust_files
from nas.space.bases import base_names, base_of_file, base_text, is_base_file, load_base, p2_names
from nas.space.choice import AFTER, KEEP, NARROW, NONE, make_choice, misfit, missing_from_host, parse_choice
from nas.space.graph import LayerGraph
from nas.space.search_space import SearchSpace, Slot, matches
from nas.space.variant import check_scale, make_variant, match_slots
from nas.space.yaml_reader import YamlReader
from nas.task.task import DETECT, task_of_head

_KEYS = ("base", "scale", "slots", "forbid", "constraints", "modules")
_SLOT_KEYS = ("choices", "tie", "enabled")
_LIMITS = ("max_gflops", "max_params", "max_latency_ms", "min_map")
_MOST_CHOICES = 200
_HEAD = f"head.{DETECT.name}"


def shipped_spaces() -> tuple[str, ...]:
    """Return the names of the spaces that ship with the tool."""
    folder = resources.files("nas.studies.spaces")
    return tuple(sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_space(name: str) -> SearchSpace:
    """Read a space file, or one that ships with the tool by its name.

    Raises:
        SpaceError: There is no such file, or it has problems; all of them, each with file and line.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise SpaceError(f"cannot read the space file {name}: {error}") from None
        except UnicodeDecodeError:
            raise SpaceError(f"cannot read the space file {name}: it is not UTF-8: save it as UTF-8") from None
        return read_space(text, str(path), path.stem)
    if name not in shipped_spaces():
        beside = f"; did you mean {name}.yaml?" if path.with_name(f"{path.name}.yaml").is_file() else ""
        hint = beside or did_you_mean(name, dict.fromkeys(shipped_spaces()))
        raise SpaceError(f"no space named {name!r}{hint}; or give a file that ends in .yaml")
    text = (resources.files("nas.studies.spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    return read_space(text, f"{name}.yaml", name)


def read_space(text: str, file: str, name: str) -> SearchSpace:
    """Read a space from text; `file` is its name in messages.

    Raises:
        SpaceError: All problems, one a line, each with file and line.
    """
    reader = _SpaceReader(file)
    space = reader.read(reader.compose(text), name)
    reader.raise_problems()
    assert space is not None, "a reader without problems has read a space"
    return space


class _SpaceReader(YamlReader):
    """Reads a space from a YAML tree."""

    error = SpaceError

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.left_out: dict[str, str] = {}

    def mapping(
        self, node: yaml.Node, what: str, known: tuple[str, ...] = ()
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key to (key node, value node); unknown and duplicate keys are problems."""
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, f"{what}: expected a mapping (key: value)")
            return {}
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in found:
                self.problem(
                    key_node,
                    f"{what}: duplicate key {key!r}; the first is on line {found[key][0].start_mark.line + 1}",
                )
            elif known and key not in known:
                self.problem(key_node, f"{what}: unknown key {key!r}{did_you_mean(key, dict.fromkeys(known))}")
            else:
                found[key] = (key_node, value_node)
        return found

    def read(self, root: yaml.Node | None, name: str) -> SearchSpace | None:
        if root is None:
            self.problem(None, "the file is empty; a space has base, scale and slots")
            return None
        top = self.mapping(root, "a space", _KEYS)
        base = str(self.value(top["base"][1])) if "base" in top else "yolov8"
        if is_base_file(base):
            try:
                base = base_of_file(Path(self.file).parent / base)
            except ModelError as error:
                self.problem(top["base"][1], f"base: {error}")
                return None
        elif base not in base_names() and base not in p2_names() and not base_text(base):
            self.problem(top["base"][1], f"unknown base {base!r}{did_you_mean(base, dict.fromkeys(base_names()))}")
            return None
        graph = load_base(base)
        scale = str(self.value(top["scale"][1])) if "scale" in top else graph.default_scale
        try:
            check_scale(graph, scale)
        except SpaceError as error:
            self.problem(top["scale"][1], str(error))
        if "slots" not in top:
            self.problem(root, "a space needs slots")
            return None
        modules = self.modules(top["modules"][1]) if "modules" in top else ()
        if modules is None:  # each of their choices would be one more problem
            return None
        slots = self.slots(top["slots"][1], graph)
        forbid = self.forbid(top["forbid"][1], slots) if "forbid" in top else ()
        if not self.problems:
            forbid += self.narrow_pairs(top["slots"][1], slots, graph, scale)
        limits = self.limits(top["constraints"][1]) if "constraints" in top else ()
        return SearchSpace(name, base, scale, tuple(slots), forbid, limits, modules, tuple(self.left_out.values()))

    def modules(self, node: yaml.Node) -> tuple[ModuleFile, ...] | None:
        """Return the files of own modules, registered; None if one has a problem."""
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, "modules: expected a list of Python files, such as [my_block.py]")
            return None
        files: dict[str, ModuleFile] = {}
        before = len(self.problems)
        for item in node.value:
            try:
                file = read_file(Path(self.file).parent / str(item.value))
                use([*files.values(), file])
                trust_files([file])  # the user names this space
                if file.name in files:
                    self.problem(item, f"modules: {file.name} is listed twice")
                files[file.name] = file
            except (ModuleFileError, HostError) as error:
                self.problem(item, f"modules: {error}")
        return tuple(files[name] for name in sorted(files)) if len(self.problems) == before else None

    def slots(self, node: yaml.Node, graph: LayerGraph) -> list[Slot]:
        slots: list[Slot] = []
        taken: dict[str, str] = {}
        for key, (key_node, value_node) in self.mapping(node, "slots").items():
            spec = {"choices": value_node}
            if isinstance(value_node, yaml.MappingNode):
                spec = {k: v for k, (_, v) in self.mapping(value_node, key, _SLOT_KEYS).items()}
            tie, enabled = (self.flag(spec, name, default) for name, default in (("tie", False), ("enabled", True)))
            if key == _HEAD and key not in graph.names and (task := task_of_head(graph.layers[-1].module)):
                self.left_out[key] = (
                    f"{key} is left out: its choices are heads of detection, {graph.base} is a base of {task.words}"
                )
                continue
            try:
                layers = match_slots(graph, key)
            except SpaceError as error:
                if other := _base_with(graph, key):
                    self.left_out[key] = f"{key} is left out: {graph.base} has no such layer, only {other} has"
                    continue
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
            self.problem(spec[key], f"{key}: {shown(value)}; expected true or false")
            return default
        return value

    def choices(self, node: yaml.Node, key: str) -> tuple[str, ...]:
        """Return the labels of a slot, `keep` first, argument lists expanded to their product."""
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, f"{key}: expected a list of choices")
            return ()
        first = NONE if key.startswith(AFTER) else KEEP
        labels = [first]
        before = len(self.problems)
        for item in node.value:
            if isinstance(item, yaml.ScalarNode) and item.value in (KEEP, NONE):
                if item.value != first:
                    self.problem(item, f"{key}: {item.value!r} here; this slot's own choice is {first!r}")
                continue
            for label in self.multiply(item, key):
                if label in labels:
                    self.problem(item, f"{key}: {label} is listed twice (arguments at their defaults are dropped)")
                else:
                    labels.append(label)
        if len(labels) == 1 and len(self.problems) == before:
            self.problem(node, f"{key}: no choice besides {first!r}")
        if len(labels) > _MOST_CHOICES:
            self.problem(node, f"{key}: {len(labels)} choices; at most {_MOST_CHOICES} make sense in one slot")
        return tuple(labels)

    def multiply(self, item: yaml.Node, key: str) -> list[str]:
        """Return the labels of one entry of a list of choices."""
        try:
            if isinstance(item, yaml.ScalarNode):
                return [parse_choice(str(item.value)).label]
        except SpaceError as error:
            own = difflib.get_close_matches(str(item.value), (KEEP, NONE), n=1)  # before a module that is less like it
            what = f"unknown choice {item.value!r}; did you mean {own[0]}?" if own else str(error)
            self.problem(item, f"{key}: {what}")
            return []
        if not isinstance(item, yaml.MappingNode) or len(item.value) != 1:
            self.problem(item, f"{key}: expected a module's name, or {{module: {{argument: value or list of values}}}}")
            return []
        module, args = str(item.value[0][0].value), self.value(item.value[0][1])
        if module.startswith(HOST):
            try:
                return [make_choice(module, args).label]
            except SpaceError as error:
                self.problem(item, f"{key}: {error}")
                return []
        if not isinstance(args, dict):
            self.problem(item, f"{key}: {module}: expected arguments, such as {{{module}: {{argument: [values]}}}}")
            return []
        lists = {k: v if isinstance(v, list) else [v] for k, v in args.items()}
        for name in (k for k, v in lists.items() if not v):
            self.problem(item, f"{key}: {module}: {name} has an empty list of values")
        if (count := math.prod(map(len, lists.values()))) > _MOST_CHOICES:
            self.problem(item, f"{key}: {count:,} choices of {module}; at most {_MOST_CHOICES} make sense in one slot")
            return []
        labels = []
        for values in itertools.product(*lists.values()):
            try:
                labels.append(make_choice(module, dict(zip(lists, values, strict=True))).label)
            except SpaceError as error:
                self.problem(item, f"{key}: {error}")
                if "no argument" in str(error) or "unknown module" in str(error):
                    break
        return labels

    def fits(self, node: yaml.Node, graph: LayerGraph, layers: tuple[str, ...], choices: tuple[str, ...]) -> None:
        for label in choices[1:]:
            wrong: dict[str, list[str]] = {}
            if absent := missing_from_host(parse_choice(label)):
                self.problem(node, f"{label}: {absent}")
                continue
            for layer in layers:
                name = layer.removeprefix(AFTER)
                why = misfit(graph, name, parse_choice(label), inserted=layer.startswith(AFTER))
                wrong.setdefault(why, []).append(layer)
            for why, where in wrong.items():
                if why:
                    self.problem(node, f"{', '.join(where)}: {why}")

    def narrow_pairs(
        self, node: yaml.Node, slots: list[Slot], graph: LayerGraph, scale: str
    ) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Return the pairs of choices in which a layer has fewer output channels than its reader can do with."""
        rules = []
        for slot in slots:
            narrow = [label for label in slot.choices if label.startswith(f"{NARROW}(")]
            for label in narrow:
                try:
                    make_variant(graph.base, scale, dict.fromkeys(slot.layers, label))
                except SpaceError as error:
                    self.problem(node, f"{slot.key}: {error}")
            near = {name for layer in slot.layers for name in _near(graph, layer)} if narrow else set()
            for other in slots:
                if other is slot or near.isdisjoint(layer.removeprefix(AFTER) for layer in other.layers):
                    continue
                for label in other.choices[1:]:
                    pair = dict.fromkeys(slot.layers, narrow[0]) | dict.fromkeys(other.layers, label)
                    try:
                        make_variant(graph.base, scale, pair)
                    except SpaceError:
                        rules.append(((slot.key, f"{NARROW}(*)"), (other.key, label)))
        return tuple(rules)

    def forbid(self, node: yaml.Node, slots: list[Slot]) -> tuple[tuple[tuple[str, str], ...], ...]:
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, "forbid: expected a list of {slot: choice, ...}")
            return ()
        rules = []
        for item in node.value:
            rule = self.mapping(item, "forbid")
            for key, (key_node, value_node) in rule.items():
                if key in self.left_out:
                    continue
                matched = [s for s in slots if matches(s.key, key)]
                label = str(value_node.value)
                if not matched:
                    self.problem(key_node, f"forbid: no slot {key!r}{did_you_mean(key, {s.key: s for s in slots})}")
                elif not any(matches(c, label) for s in matched for c in s.choices):
                    known = dict.fromkeys(c for s in matched for c in s.choices)
                    self.problem(value_node, f"forbid: {key} has no choice {label!r}{did_you_mean(label, known)}")
            if not any(key in self.left_out for key in rule):
                rules.append(tuple((key, str(value.value)) for key, (_, value) in rule.items()))
        return tuple(rules)

    def limits(self, node: yaml.Node) -> tuple[tuple[str, float], ...]:
        limits = {}
        for key, (_, value_node) in self.mapping(node, "constraints", _LIMITS).items():
            value = self.value(value_node)
            if isinstance(value, str):  # YAML 1.1 reads 4e6 as text
                with contextlib.suppress(ValueError):
                    value = float(value)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                self.problem(value_node, f"constraints: {key}={shown(value)}; expected a number above 0")
            elif key == "min_map" and value > 1:
                self.problem(value_node, f"constraints: min_map={shown(value)}; expected an mAP50-95 between 0 and 1")
            else:
                limits[key] = float(value)
        return tuple(sorted(limits.items()))


def _near(graph: LayerGraph, name: str) -> set[str]:
    """Return the layers whose swaps, or whose insertions behind them, may take the output channels of a layer."""
    takes = {x.name for x in graph.layers if name in graph.inputs(x.name)}
    guided = {n for n in graph.names if (guide := graph.guide_of(n)) and (guide == name or guide in takes)}
    return takes | guided | {name}


def _base_with(graph: LayerGraph, key: str) -> str:
    """Return the base of detection that belongs to one of another task, if a slot is of it alone; else nothing."""
    task = task_of_head(graph.layers[-1].module)
    other = graph.base.removesuffix(task.mark) if task else graph.base
    if other == graph.base:
        return ""
    try:
        match_slots(load_base(other), key)
    except SpaceError:
        return ""
    return other
