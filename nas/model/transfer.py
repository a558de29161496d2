"""Trained tensors by layer name: named, numbered, copied between models; and warm starts of swapped layers.

A layer with fewer output channels changes the tensors of its readers too. Their tensors are first made as if the layer
were wide, and then fitted to the narrow map (`narrow_tensors`, by `nas.ops.stages`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nas.model.host import build
from nas.model.render import render
from nas.ops.registry import Input
from nas.ops.stages import DECODER, Decoded, Decoder, folded, own_state, reading_weights, start_narrow
from nas.ops.warm_start import CannotStart, apply_start
from nas.space.bases import load_base
from nas.space.graph import PASSING, LayerGraph
from nas.space.variant import Variant


def named_state(state: Mapping[str, torch.Tensor], graph: LayerGraph) -> dict[str, torch.Tensor]:
    """Return a model's tensors by layer name: ``model.3.conv.weight`` becomes ``backbone.down_p3:conv.weight``."""
    return {_named(key, graph.names): tensor for key, tensor in state.items()}


def numbered_state(state: Mapping[str, torch.Tensor], graph: LayerGraph) -> dict[str, torch.Tensor]:
    """Return named tensors by the row numbers of `graph`; layers that it does not have are left out."""
    numbers = {name: i for i, name in enumerate(graph.names)}
    split = ((key.partition(":"), tensor) for key, tensor in state.items())
    return {f"model.{numbers[name]}.{rest}": tensor for (name, _, rest), tensor in split if name in numbers}


def copy_matching(model: nn.Module, graph: LayerGraph, state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Copy every named tensor that the model has in the same layer, of the same name and shape.

    Returns:
        How many of the model's tensors were set, and how many it has.
    """
    return _copy(model, numbered_state(state, graph))


def warm_start_layer(new: nn.Module, old: nn.Module | None, inputs: Input | None = None) -> bool:
    """Initialise a module near the trained layer that it replaces: copy equal tensors, then apply its registered start.

    Args:
        new: The module.
        old: The layer; None for an inserted module, which then starts near the identity.
        inputs: The layer's input on training images, for modules that keep of it what matters there; None without any.

    Returns:
        Whether a registered start was applied.
    """
    old = nn.Identity() if old is None else old
    _copy(new, old.state_dict())
    return apply_start(new, old, inputs)


def warm_start_swaps(model: Any, graph: LayerGraph, baseline: Any, given: Mapping[str, torch.Tensor]) -> None:
    """Warm-start every swapped or inserted layer whose tensors are not all given."""
    rows = {name: i for i, name in enumerate(load_base(graph.base).names)}
    for i, layer in enumerate(graph.layers):
        own = {f"{layer.name}:{key}": value.shape for key, value in model.model[i].state_dict().items()}
        if layer.swap and any(key not in given or given[key].shape != shape for key, shape in own.items()):
            warm_start_layer(model.model[i], baseline.model[rows[layer.name]] if layer.name in rows else None)


def decoded(layer: nn.Module, variant: Variant, name: str) -> Decoded:
    """Return a narrow layer of a variant with a decoder behind it, which makes as many channels as the base's layer."""
    narrow, wide = (graph.channels(name, variant.scale) for graph in (variant.graph(), load_base(variant.base)))
    return Decoded(layer, narrow, wide)


def start_decoded(new: Decoded, variant: Variant, name: str, baseline: Any, inputs: Input | None = None) -> bool:
    """Start a narrow layer of a variant near the trained one; return whether it could.

    Args:
        new: The layer, with its decoder.
        variant: The variant.
        name: The layer's name.
        baseline: The trained baseline.
        inputs: As `warm_start_layer`.
    """
    base = load_base(variant.base)
    rows = {layer: i for i, layer in enumerate(base.names)}
    weights = []
    for reader in base.readers(name):
        places = base.inputs(reader.name)
        for i, source in enumerate(places):
            if source == name:
                first = sum(base.channels(other, variant.scale) for other in places[:i])
                count = base.channels(name, variant.scale)
                try:
                    weights.append(reading_weights(baseline.model[rows[reader.name]], first, count).cpu())
                except CannotStart:
                    return False
    device = next(new.parameters()).device
    return start_narrow(new, baseline.model[rows[name]], inputs, torch.cat(weights).to(device))


def started_narrow(
    variant: Variant,
    baseline: Any,
    given: Mapping[str, torch.Tensor],
    nc: int,
    kpt_shape: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Start the narrow layers of a variant that are not given with their decoders; return their tensors by layer name.

    Each takes the wide map, as in a bank: behind another narrow layer, `reader_tensors` adapts it.

    Args:
        variant: The variant.
        baseline: The trained baseline.
        given: Tensors of some of its layers, such as those of a bank.
        nc: Number of classes.
        kpt_shape: As `nas.model.host.build`.
    """
    found: dict[str, torch.Tensor] = {}
    place = {name: i for i, name in enumerate(load_base(variant.base).names)}
    for name in variant.narrowed:
        if f"{name}:{DECODER}.weight" not in given:
            alone = replace(variant, swaps=tuple(swap for swap in variant.swaps if swap[0] == name))
            model: Any = build(render(alone).yaml, variant.scale, nc, kpt_shape)
            new = decoded(model.model[place[name]], variant, name)
            if start_decoded(new, variant, name, baseline):
                found |= {f"{name}:{key}": value for key, value in own_state(new).items()}
    return found


def reader_tensors(variant: Variant, model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the readers of narrow layers, by layer name: adapted to their inputs, else as they are.

    Args:
        variant: The variant.
        model: Its model, for the shapes of its tensors.
        state: Tensors of the wide variant, and of the narrow layers with their decoders; the readers of one without
            a decoder are left out.
    """
    graph, base = variant.graph(), load_base(variant.base)
    own = named_state(model.state_dict(), graph)
    decoders = {
        name: Decoder(state[f"{name}:{DECODER}.weight"].float().flatten(1), state[f"{name}:{DECODER}.bias"].float())
        for name in variant.narrowed
        if f"{name}:{DECODER}.weight" in state
    }
    found: dict[str, torch.Tensor] = {}
    for layer in graph.layers:
        inputs = graph.inputs(layer.name)
        if layer.module in PASSING or decoders.keys().isdisjoint(inputs):
            continue
        parts = [decoders.get(s) or Decoder.same(base.channels(s.partition("+")[0], variant.scale)) for s in inputs]
        mine, theirs = (_of_layer(tensors, layer.name) for tensors in (own, state))
        same = {key: value for key, value in theirs.items() if key in mine and mine[key].shape == value.shape}
        made = {**same, **folded(mine, theirs, Decoder.joined(parts))}
        found |= {f"{layer.name}:{key}": value for key, value in made.items()}
    return found


def narrow_tensors(
    variant: Variant,
    model: nn.Module,
    baseline: Any,
    state: Mapping[str, torch.Tensor],
    nc: int,
    kpt_shape: Sequence[int] | None = None,
    *,
    near: bool = True,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a variant's narrow layers and of their readers, by layer name.

    Args:
        variant: The variant.
        model: Its model, which does not change.
        baseline: The trained baseline.
        state: Tensors of the baseline, replaced by those of a bank where it has some.
        nc: Number of classes.
        kpt_shape: As `nas.model.host.build`.
        near: Whether layers that the bank does not have start near the trained ones.
    """
    wide, graph = build(render(variant.wide).yaml, variant.scale, nc, kpt_shape), variant.wide.graph()
    copy_matching(wide, graph, state)
    if near:
        warm_start_swaps(wide, graph, baseline, state)
    own = {key: value for key, value in state.items() if key.partition(":")[0] in variant.narrowed}
    if near:
        own |= started_narrow(variant, baseline, state, nc, kpt_shape)
    return {**own, **reader_tensors(variant, model, {**named_state(wide.state_dict(), graph), **own})}


def _of_layer(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one layer, by their names in it."""
    return {key.removeprefix(f"{name}:"): value for key, value in state.items() if key.startswith(f"{name}:")}


def _copy(model: nn.Module, given: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Copy the tensors that a module has under the same name and with the same shape; return their number and all."""
    own = model.state_dict()
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(shared, strict=False)
    return len(shared), len(own)


def _named(key: str, names: tuple[str, ...]) -> str:
    """Return a tensor's key with its layer's name in place of the number."""
    match = re.fullmatch(r"model\.(\d+)\.(.+)", key)
    assert match, key
    return f"{names[int(match[1])]}:{match[2]}"
