"""Weights of other implementations that a module here holds in another form, brought into it as they are loaded.

For ``_load_from_state_dict``, which PyTorch calls for every module of a ``load_state_dict``, with the tensors that are
to be loaded. Ultralytics' own transfer, and the one of this package, take tensors of equal name and shape alone: what
has another name here does not reach it.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import nn


def fold_bias(
    state: MutableMapping[str, torch.Tensor], prefix: str, layer: str, norm: str, module: nn.BatchNorm2d
) -> None:
    """Let a batch norm take up the bias of the layer before it, which is not here: its mean is less by that.

    The output in evaluation is what it was with the bias. In training a batch norm cancels it.

    Args:
        state: Tensors that are to be loaded by name; changed in place. None of the tensors is.
        prefix: Of the names, with its dot.
        layer: Name of the layer.
        norm: Name of the batch norm.
        module: The batch norm: its mean is taken if `state` has none.
    """
    bias = state.pop(f"{prefix}{layer}.bias", None)
    if bias is not None:
        name = f"{prefix}{norm}.running_mean"
        mean = state.get(name, module.running_mean)
        assert mean is not None
        state[name] = mean.to(bias.device) - bias.detach().to(mean.dtype)
