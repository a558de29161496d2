"""Imports a hand-edited model YAML as a variant of a base.

The file's rows are aligned with the base's layers at minimum cost, as lines are in a diff. A swapped or inserted row
becomes a choice if it is a registered module with valid arguments, or another class that the installed Ultralytics can
build (``host:NAME``); then all inputs of all rows are compared. Other differences are listed with their lines,
never guessed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache, partial

from nas.errors import ModelError, SpaceError
from nas.fork.heads import head_of, is_head
from nas.fork.names import registered_name
from nas.fork.row_text import CHANNELS, HostRow, make_host_row
from nas.fork.rows import as_lines, unknown_module
from nas.fork.signature import ambiguous
from nas.ops import registry
from nas.space.bases import bases_like, load_base, task_of_base
from nas.space.choice import AFTER, Choice, has_channels, host_choice, make_choice, misfit, narrow_choice, parse_choice
from nas.space.graph import IMAGE, Layer, LayerGraph, RowArg, role_of
from nas.space.model_yaml import IMAGE_ROW, ModelRow, ModelYaml, at_scale, scale_of
from nas.space.variant import Variant, check_scale, make_variant
from nas.task.task import task_of_head

_SAME, _SWAPPED, _REPLACED, _INSERTED, _CHANGED, _MISSING = 0.0, 1.0, 1.8, 2.0, 3.0, 4.0
_FIXED = ("Concat", "nn.Upsample", "nn.ConvTranspose2d", "Detect", "v10Detect", "nn.Identity", "nn.ZeroPad2d")
_ELSEWHERE = "which has another place in a model"
"""Layers of a base's frame: as a swap or an insertion they would move the layers around them."""
_NOT_COMPARED = ("legacy", "kpt_shape")
"""Constants that a file does not have, and that say something of the data alone, as the number of classes does."""
_MOST_ALIGNED = 4
"""Number of bases that a file of unknown base is aligned with: those with the most common rows."""
_MOST_UNLIKE = 0.5
"""Share of differing rows above which a file counts as another model."""


@dataclass(frozen=True)
class Swap:
    """One swap of a file.

    Attributes:
        line: Its line.
        slot: The slot, as in `nas.space.variant.Variant.swaps`.
        label: The choice.
    """

    line: int
    slot: str
    label: str


@dataclass(frozen=True)
class Imported:
    """A model YAML as a variant.

    Attributes:
        variant: The base with the swaps that could be read.
        swaps: Those swaps, in order of the file.
        left_out: Line and text of every other difference between the file and the base.
    """

    variant: Variant
    swaps: tuple[Swap, ...]
    left_out: tuple[tuple[int, str], ...]


def variant_of_yaml(model: ModelYaml, scale: str | None = None, base: str | None = None) -> Imported:
    """Read a model YAML as a variant.

    Args:
        model: The file.
        scale: Scale letter; None for the one in the file name, as Ultralytics reads it, else the base's first.
        base: Name of the base; None for the most similar one.

    Raises:
        ModelError: No base is similar.
        SpaceError: Unknown base or scale.
    """
    _known.cache_clear()
    graphs = [load_base(name) for name in ((base,) if base else bases_like(model))]
    graphs = [at_scale(graph, scale_of(model, graph) if scale is None else scale) for graph in graphs]
    nearest = sorted(graphs, key=partial(_likeness, model), reverse=True)[:_MOST_ALIGNED]
    found = min((_Alignment(graph, model) for graph in nearest), key=_Alignment.distance)
    graph = found.graph
    unlike = len(found.left_out) / max(len(model.rows), len(graph.layers))
    if unlike > _MOST_UNLIKE:
        which = graph.base if base else f"any known base; the most similar is {graph.base}"
        what = f"{model.file} is no variant of {which}: {unlike:.0%} of the rows differ"
        raise ModelError("\n".join([what, *as_lines(model.file, found.left_out)]))
    letter = scale if scale is not None else scale_of(model, graph)
    check_scale(graph, letter)
    keys = [(line, f"{key}: a fork's parse_model looks it up; Ultralytics' does not") for line, key in model.others]
    left_out = [*_constants(model, graph, letter), *keys, *found.left_out]
    swaps = found.swaps
    try:
        variant = make_variant(graph.base, letter, {swap.slot: swap.label for swap in swaps})
    except SpaceError as error:
        swaps = [swap for swap in found.swaps if parse_choice(swap.label).share is None]
        if len(swaps) == len(found.swaps):
            raise ModelError(f"{model.file}: {error}") from None
        left_out += [(s.line, f"{s.slot}: {s.label}: {error}") for s in found.swaps if s not in swaps]
        variant = make_variant(graph.base, letter, {swap.slot: swap.label for swap in swaps})
    left_out += found.wrong_sources(variant.graph())
    return Imported(variant, tuple(swaps), tuple(sorted(set(left_out))))


def _likeness(model: ModelYaml, graph: LayerGraph) -> float:
    """Return the share of rows that the file and the base have in common, in the same order."""
    theirs = [(row.module, row.repeats, row.args) for row in model.rows]
    ours = [(layer.module, layer.repeats, layer.args) for layer in graph.layers]
    scales = sum(model.scales.get(k) == v for k, v in graph.scales.items())
    return SequenceMatcher(None, theirs, ours, autojunk=False).ratio() + scales / 100


@dataclass
class _Step:
    """One step of an alignment: a layer with its row, a layer without a row, or a row without a layer."""

    kind: str
    layer: Layer | None
    row: int | None


@dataclass
class _Alignment:
    """The alignment of a file's rows with a base's layers."""

    graph: LayerGraph
    model: ModelYaml
    cost: float = field(init=False)
    steps: list[_Step] = field(init=False)
    swaps: list[Swap] = field(init=False, default_factory=list)
    left_out: list[tuple[int, str]] = field(init=False, default_factory=list)
    layer_of: dict[int, str] = field(init=False, default_factory=dict)
    """Row number to the layer of the variant that it corresponds to."""
    passes: dict[int, str] = field(init=False, default_factory=dict)
    """Row number to the layer of the variant whose output it has; a row left out passes on its input."""

    def __post_init__(self) -> None:
        self.cost, self.steps = self._align()
        self.passes = {IMAGE_ROW: IMAGE}
        before: Layer | None = None
        for step in self.steps:
            row = self.model.rows[step.row] if step.row is not None else None
            if step.layer and row is None:
                line = self.model.rows[min(len(self.passes) - 1, len(self.model.rows) - 1)].line
                self.left_out.append((line, f"{step.layer.name} ({step.layer.module}) of {self.graph.base} is missing"))
            elif step.layer and row and step.row is not None:
                self._matched(step.layer, row, step.kind)
                self.layer_of[step.row] = self.passes[step.row] = step.layer.name
            elif row and step.row is not None:
                self._inserted(before, row, step.row)
            before = step.layer or before

    def distance(self) -> float:
        """Return the cost of the alignment, plus the number of different scales and constants."""
        scales = sum(self.model.scales.get(k) != v for k, v in self.graph.scales.items())
        unlike = set(self.model.constants) ^ set(self.graph.constants)
        return self.cost + scales + sum(key not in _NOT_COMPARED for key, _ in unlike)

    def _align(self) -> tuple[float, list[_Step]]:
        """Return the minimum cost of an alignment, and its steps."""
        layers, rows = self.graph.layers, self.model.rows
        best: list[list[tuple[float, str]]] = [[(0.0, "")] * (len(rows) + 1) for _ in range(len(layers) + 1)]
        for i in range(len(layers) + 1):
            for j in range(len(rows) + 1):
                ways: list[tuple[float, str]] = []
                if i and j:
                    price, kind = _compared(self.graph, layers[i - 1], rows[j - 1])
                    ways.append((best[i - 1][j - 1][0] + price, kind))
                if i:
                    ways.append((best[i - 1][j][0] + _MISSING, "missing"))
                if j:
                    known = i and not isinstance(_insertion(self.graph, layers[i - 1], rows[j - 1]), str)
                    ways.append((best[i][j - 1][0] + (_INSERTED if known else _MISSING), "inserted"))
                if ways:
                    best[i][j] = min(ways, key=lambda way: way[0])
        steps: list[_Step] = []
        i, j = len(layers), len(rows)
        while i or j:
            kind = best[i][j][1]
            layer = layers[i - 1] if kind != "inserted" else None
            steps.append(_Step(kind, layer, j - 1 if kind != "missing" else None))
            i, j = i - (kind != "inserted"), j - (kind != "missing")
        return best[-1][-1][0], steps[::-1]

    def _matched(self, layer: Layer, row: ModelRow, kind: str) -> None:
        if kind == "same":
            return
        choice = _swap(self.graph, layer, row)
        if isinstance(choice, str):
            self.left_out.append((row.line, f"{layer.name}: {choice}"))
        else:
            self.swaps.append(Swap(row.line, layer.name, choice.label))

    def _inserted(self, before: Layer | None, row: ModelRow, number: int) -> None:
        choice = _insertion(self.graph, before, row)
        if isinstance(choice, Choice) and before and "+" in self.layer_of.get(number - 1, ""):
            choice = f"a second module after {before.name}; one can be inserted"
        if isinstance(choice, Choice) and row.sources != (number - 1,):
            choice = f"{row.module} takes row {row.sources[0]}; an inserted layer takes the one before it"
        if isinstance(choice, str) or before is None:
            self.left_out.append((row.line, f"row {number}: {choice}"))
            self.passes[number] = self.passes[row.sources[0]]
        else:
            self.swaps.append(Swap(row.line, f"{AFTER}{before.name}", choice.label))
            inserted = choice.row.name if choice.row else choice.module
            self.layer_of[number] = self.passes[number] = f"{before.name}+{inserted}"

    def wrong_sources(self, graph: LayerGraph) -> list[tuple[int, str]]:
        """Return line and text of every row whose inputs differ from those of its layer in the variant."""
        wrong = []
        for number, name in self.layer_of.items():
            row = self.model.rows[number]
            taken = tuple(self.passes[s] for s in row.sources)
            expected = graph[name].sources
            if taken != expected:
                with_swaps = f"{graph.base} with these swaps" if self.swaps else graph.base
                wrong.append((row.line, f"{name} takes {', '.join(taken)}; in {with_swaps} {', '.join(expected)}"))
        return wrong


def _compared(graph: LayerGraph, layer: Layer, row: ModelRow) -> tuple[float, str]:
    """Return the cost of matching a row with a layer, and how they differ."""
    if (row.module, row.repeats, row.args) == (layer.module, layer.repeats, layer.args):
        return _SAME, "same"
    choice = _swap(graph, layer, row)
    if not isinstance(choice, str):
        far = choice.row and choice.row.args and choice.row.args[0] != CHANNELS
        return (_REPLACED if far else _SWAPPED), "swapped"
    return (_CHANGED if row.module == layer.module or layer.kind else 2 * _MISSING), "changed"


def _swap(graph: LayerGraph, layer: Layer, row: ModelRow) -> Choice | str:
    """Return the choice that makes a layer this row, or why there is none."""
    if layer.section == "head" and registered_name(row.module) not in registry.entries():
        if row.module == layer.module:
            return _changed(layer, row)
        if is_head(row.module) and task_of_head(row.module) is not (task := task_of_base(graph.base)):
            return f"{head_of(row.module)}; {graph.base} is a base of {task.words}"
        return f"{layer.module} replaced by {row.module}: a head cannot be swapped for it"
    if row.module == layer.module:
        narrow = narrow_choice(graph, layer, row.args) if row.repeats == layer.repeats else None
        if narrow:
            return narrow
        own = registry.entries().get(row.module)
        found = _registered_swap(graph, layer, row, own) if own and layer.kind in own.kinds else ""
        return found if isinstance(found, Choice) else _changed(layer, row)
    known = _known(row.module)
    if isinstance(known, str):
        return f"{layer.module} replaced; {known}"
    found = _registered_swap(graph, layer, row, known) if known else ""
    other = found if isinstance(found, Choice) or (known and not known.native) else _host_swap(layer, row)
    return found if known and isinstance(other, str) and _ELSEWHERE not in other else other


def _registered_swap(graph: LayerGraph, layer: Layer, row: ModelRow, known: registry.Entry) -> Choice | str:
    if row.module != layer.module and (problem := misfit(graph, layer.name, Choice(known.name), inserted=False)):
        return problem
    repeats = row.repeats if row.repeats < layer.repeats and known.rule == "block" else 0
    if row.repeats not in (1, layer.repeats, repeats):
        return f"{row.repeats} repeats in place of {layer.repeats}: swaps keep them"
    channels = known.rule not in ("same", "guided")  # they come first in its row
    if channels and row.args[:1] != layer.args[:1]:
        return _other_channels(layer, row)
    return _choice(known, row.args[channels:], layer, repeats)


def _host_swap(layer: Layer, row: ModelRow) -> Choice | str:
    """Return the choice of a host's class in a layer's place, its arguments kept as they are, or why there is none."""
    role = role_of(row.module, row.args)
    if len(row.sources) != len(layer.sources):
        return f"{row.module} takes {len(row.sources)} inputs in place of {len(layer.sources)}"
    gone = row.module == "nn.Identity" and layer.kind == "block"  # nothing is left of the block
    if (role and role != layer.kind) or (row.module in _FIXED and not gone) or is_head(row.module):
        return f"{layer.module} replaced by {row.module}, {_ELSEWHERE}"
    own = has_channels(layer)
    if role and own and row.args[0] != layer.args[0]:
        return _other_channels(layer, row)
    if role == "down" and Layer("", (), row.module, row.args).slot_values["stride"] != layer.slot_values["stride"]:
        return f"{row.module} has another stride than {layer.module}"
    same = own and row.args[:1] == layer.args[:1]
    args = (CHANNELS, *row.args[1:]) if same else row.args
    repeats = row.repeats if row.repeats != layer.repeats else None
    default = row.args == (layer.args if own else ()) and repeats is None
    return _host_choice(row, None if default else args, repeats)


def _other_channels(layer: Layer, row: ModelRow) -> str:
    given = f"{row.args[0]}" if row.args else "no"
    return f"{row.module} has {given} output channels in place of {layer.args[0]}: swaps keep them"


def _insertion(graph: LayerGraph, before: Layer | None, row: ModelRow) -> Choice | str:
    """Return the choice that inserts this row after a layer, or why there is none."""
    known = _known(row.module)
    if isinstance(known, str):
        return f"inserted; {known}"
    if before is None:
        return f"{row.module} comes before the first layer"
    if known and not known.native:
        problem = misfit(graph, before.name, Choice(known.name), inserted=True)
        if problem:
            return problem
        if row.repeats != 1:
            return f"{row.repeats} repeats of an inserted {row.module}; expected 1"
        return _choice(known, row.args, before, channels=before.args[0] if has_channels(before) else None)
    role = role_of(row.module, row.args)
    if before.section == "head" or role in ("up", "down") or row.module in _FIXED or is_head(row.module):
        return f"{row.module} inserted, {_ELSEWHERE}"
    if len(row.sources) != 1:
        return f"{row.module} takes {len(row.sources)} inputs; an inserted layer takes the one before it"
    repeats = row.repeats if row.repeats != 1 else None
    return _host_choice(row, row.args if row.args or repeats else None, repeats)


def _host_choice(row: ModelRow, args: tuple[RowArg, ...] | None, repeats: int | None) -> Choice | str:
    """Return the choice of a host's class with arguments, or why a choice cannot have them."""
    if CHANNELS in row.args:
        return f"{row.module} with the text {CHANNELS!r}, which stands for a number of channels in choices"
    try:
        make_host_row(row.module, list(args or ()))
    except ValueError as error:
        return str(error)
    return host_choice(HostRow(row.module, args, repeats))


@cache  # it is asked for each row and each layer; every import begins anew
def _known(module: str) -> registry.Entry | str | None:
    """Return the registered module of a row, None for another class of the host, or that it is neither."""
    known = registry.entries()
    if ours := registered_name(module):
        return known[ours]
    return unknown_module(module) or None


def _changed(layer: Layer, row: ModelRow) -> str:
    """Return how a row with the layer's own class differs from the layer."""
    if row.repeats != layer.repeats:
        return f"{row.repeats} repeats in place of {layer.repeats}"
    return f"{row.module} with {_list(row.args)} in place of {_list(layer.args)}"


def _choice(
    entry: registry.Entry, given: tuple[RowArg, ...], layer: Layer, repeats: int = 0, channels: RowArg = None
) -> Choice | str:
    """Return the choice for a row's arguments after the channels, or why they are not valid."""
    signature = f"it takes {', '.join(p.name for p in entry.params) or 'none'}"
    if len(given) > len(entry.params):
        return f"{entry.name} with {_list(given)}: {len(given)} arguments; {signature}"
    if problem := ambiguous(entry, given, channels):
        return problem
    args = dict[str, object](repeats=repeats) if repeats else {}
    for place, param in enumerate(entry.params):
        if isinstance(param, registry.FromSlot):
            wanted = layer.slot_values.get(param.key)
            default = inspect.signature(entry.cls).parameters[param.name].default
            value = given[place] if place < len(given) else default
            if value != wanted:
                return f"{entry.name}: {param.name}={value}; the layer that it replaces has {param.key} {wanted}"
        elif place < len(given):
            args[param.name] = given[place]
    try:
        choice = make_choice(entry.name, args)
    except SpaceError as error:
        return f"{entry.name} with {_list(given)}: {error} ({signature})"
    return choice


def _constants(model: ModelYaml, graph: LayerGraph, letter: str) -> list[tuple[int, str]]:
    """Return line and text of the constants in which a file differs from the base."""
    found = []
    own = {key: value for key, value in graph.constants if key not in _NOT_COMPARED}
    given = {key: value for key, value in model.constants if key not in _NOT_COMPARED}
    if not model.scales and graph.scales:
        depth, width = (given.pop(f"{key}_multiple", 1.0) for key in ("depth", "width"))
        if not graph.has_size(letter, depth, width):
            ours = list(graph.scales[letter])
            found.append((1, f"depth {depth}, width {width}, no channel limit; {graph.base} has {letter}: {ours}"))
    elif model.scales:  # which then count alone
        given = {key: value for key, value in given.items() if not key.endswith("_multiple")}
    for key, value in given.items():
        if own.get(key) != value:
            found.append((1, f"{key}: {value}; {graph.base} has {own.get(key, 'none')}"))
    found += [(1, f"{key} is missing; {graph.base} has {own[key]}") for key in own if key not in given]
    if graph.scales and model.scales and model.scales.get(letter) != graph.scales[letter]:
        theirs = list(model.scales.get(letter, ())) or "none"
        found.append((1, f"scale {letter}: {theirs}; {graph.base} has {list(graph.scales[letter])}"))
    return found


def _list(values: tuple[object, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"
