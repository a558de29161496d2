"""The activation that a drop-in for Ultralytics' ``Conv`` ends in."""

from __future__ import annotations

from torch import nn
from ultralytics.nn.modules.conv import Conv


def activation(act: bool | nn.Module) -> nn.Module:
    """Return an activation by Ultralytics' convention.

    Args:
        act: True for ``Conv.default_act`` (SiLU unless the model YAML says otherwise), False for none, or a module.
    """
    if isinstance(act, nn.Module):
        return act
    default: nn.Module = Conv.default_act
    return default if act else nn.Identity()
