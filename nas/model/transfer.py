"""Trained tensors by layer name: named, numbered, and taken over from one model to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.space.graph import LayerGraph

if TYPE_CHECKING:
    import torch
    from torch import nn
import re
from typing import Any


def named_state(state: Mapping[str, torch.Tensor], graph: LayerGraph) -> dict[str, torch.Tensor]:
    """Return a model's tensors by layer name: ``model.3.conv.weight`` becomes ``backbone.down_p3:conv.weight``."""
    return {_named(key, graph.names): tensor for key, tensor in state.items()}


def numbered_state(state: Mapping[str, torch.Tensor], graph: LayerGraph) -> dict[str, torch.Tensor]:
    """Return named tensors by the row numbers of `graph`; layers that it does not have are left out."""
    numbers = {name: i for i, name in enumerate(graph.names)}
    split = ((key.partition(":"), tensor) for key, tensor in state.items())
    return {f"model.{numbers[name]}.{rest}": tensor for (name, _, rest), tensor in split if name in numbers}


def inherit(model: nn.Module, graph: LayerGraph, state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Copy every named tensor that the model has in the same layer, of the same name and shape.

    Returns:
        How many of the model's tensors were set, and how many it has.
    """
    own = model.state_dict()
    given = numbered_state(state, graph)
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(shared, strict=False)
    return len(shared), len(own)


def _named(key: str, names: tuple[str, ...]) -> str:
    """Return a tensor's key with its layer's name in place of the number."""
    match = re.fullmatch(r"model\.(\d+)\.(.+)", key)
    assert match, key
    return f"{names[int(match[1])]}:{match[2]}"


def begin(new: Any, old: Any | None) -> bool:
    """Let a module start near the trained layer that it replaces: equal tensors, then what its registry entry knows.

    Args:
        new: The module.
        old: The layer, None for a module that is inserted: then it starts near handing on what it gets.

    Returns:
        Whether its entry knew a start.
    """
    from torch import nn

    from nas.ops import start

    old = nn.Identity() if old is None else old
    own = new.state_dict()
    shared = {k: v for k, v in old.state_dict().items() if k in own and own[k].shape == v.shape}
    new.load_state_dict(shared, strict=False)
    return start.begin(new, old)


def begin_swaps(model: Any, graph: Any, baseline: Any, given: dict[str, Any]) -> None:
    """Let every swapped or inserted layer for which there are no tensors of its own start near what was there."""
    from nas.space.bases import load_base

    rows = {name: i for i, name in enumerate(load_base(graph.base).names)}
    for i, layer in enumerate(graph.layers):
        own = {f"{layer.name}:{key}" for key in model.model[i].state_dict()}
        if layer.swap and not own <= set(given):
            begin(model.model[i], baseline.model[rows[layer.name]] if layer.name in rows else None)
