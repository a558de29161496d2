"""A model as it is deployed: fused, with the flags of an export; and values by which a wrong export shows."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import C2f, Detect

from nas.errors import BuildError, one_line
from nas.model.host import build

_BIAS = -1.0
"""Of class scores: those of new and of trained models are near 0 on noise images, where no difference would show."""


def as_deployed(model: nn.Module, engine: str, imgsz: int) -> nn.Module:
    """Return a fused copy of a detection model that gives decoded boxes and scores, as Ultralytics exports it.

    Args:
        model: A model of `nas.model.host.build`.
        engine: Name of the engine; NCNN gets every box, as it has no operator for the best ones.
        imgsz: Image side in pixels.
    """
    copied: Any = copy.deepcopy(model).eval().float()
    if engine == "ncnn" and getattr(copied, "end2end", False):
        copied.end2end = False
    with torch.no_grad():  # modules that fold branches compute their kernel, which would not be a leaf
        copied = copied.fuse(verbose=False)
    for parameter in copied.parameters():
        parameter.requires_grad = False
    for module in copied.modules():
        if isinstance(module, Detect):
            flagged: Any = module
            flagged.export, flagged.dynamic, flagged.shape = True, False, None
            flagged.format = "onnx"
            flagged.max_det = min(300, sum(int(imgsz / s) ** 2 for s in copied.stride.tolist()))
        elif isinstance(module, C2f):
            module.forward = module.forward_split
    return copied  # type: ignore[no-any-return]  # Ultralytics is untyped


def new_model(yaml: str, scale: str) -> nn.Module:
    """Return a model of a YAML with perturbed values, always the same; the state of random numbers is kept.

    Raises:
        BuildError: It cannot be built, or not run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(yaml, scale)
        try:
            return perturb(model)
        except Exception as error:  # any error of a module's forward
            raise BuildError(f"cannot be run: {one_line(error)}") from error


def trained_model(yaml: str, scale: str, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a model of a YAML with trained values; only the bias of its class scores is another, as `perturb` says.

    Raises:
        BuildError: It cannot be built, or the tensors are of another model.
    """
    model = build(yaml, scale)
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise BuildError(f"its tensors are of another model than its YAML: {one_line(error)}") from error
    _raise_scores(model)
    return model


def perturb(model: nn.Module, imgsz: int = 128) -> nn.Module:
    """Change the values of a new model, in place, so that every part of it influences its answer.

    A new model would prove little: offsets and gates start at 0, batch norms pass everything on, and all scores are
    near 0. Weights get noise, batch norms the statistics of noise images, and class scores a bias of -1.

    Args:
        model: A detection model.
        imgsz: Side of the noise images, in pixels.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        add_noise(model)
        for norm in norms:
            norm.momentum = None  # the mean of all that it sees
            norm.reset_running_stats()
        model.train()
        for _ in range(2):
            model(torch.rand(4, 3, imgsz, imgsz))
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    _raise_scores(model)
    return model


def _raise_scores(model: nn.Module) -> None:
    """Set the bias of the class scores to `_BIAS`."""
    with torch.no_grad():
        for head in model.modules():
            if isinstance(head, Detect):
                for name in ("cv3", "one2one_cv3"):
                    for branch in getattr(head, name, None) or ():
                        branch[-1].bias.fill_(_BIAS)


def add_noise(module: nn.Module) -> nn.Module:
    """Add noise to every parameter of a module, in place: of kernels, as much as keeps the size of activations."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".dfl." in f".{name}":
                continue  # the bins that a head's distributions are sums of
            inputs = parameter[0].numel() if parameter.dim() > 1 else 0
            parameter.add_(torch.randn_like(parameter) * (0.5 / math.sqrt(inputs) if inputs else 0.1))
    return module


class Part(nn.Module):
    """A layer of a model for export: it takes its maps as separate arguments, and gives its tensors as a tuple."""

    def __init__(self, layer: nn.Module, several: bool) -> None:
        """Wrap.

        Args:
            layer: The layer.
            several: Whether it takes a list of maps.
        """
        super().__init__()
        self.layer, self.several = layer, several

    def forward(self, *maps: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the layer."""
        found = self.layer(list(maps) if self.several else maps[0])
        return found if isinstance(found, torch.Tensor) else tuple(found)
