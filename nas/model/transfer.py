"""Trained tensors by layer name: named, numbered, copied between models; and warm starts of swapped layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nas.ops.registry import Input
from nas.ops.warm_start import apply_start
from nas.space.bases import load_base
from nas.space.graph import LayerGraph


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
        own = {f"{layer.name}:{key}" for key in model.model[i].state_dict()}
        if layer.swap and not own <= set(given):
            warm_start_layer(model.model[i], baseline.model[rows[layer.name]] if layer.name in rows else None)


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
