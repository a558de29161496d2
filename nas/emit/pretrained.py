"""A variant's checkpoint from the stock model's: tensors go by layer name, so that an inserted row moves none.

Ultralytics matches tensors by row number: one row inserted at 5 leaves 84 of YOLOv8's 355 tensors with a partner. Here
every layer that is the base's own inherits all of its tensors, a swapped one begins near what it replaces
(`nas.model.transfer.warm_start_layer`), and what nothing inherits is listed.

The file is an Ultralytics checkpoint that pickles no class of ours: in place of a model it holds a call of
Ultralytics' own ``DetectionModel`` with the model YAML's content, and a call that loads the tensors. So it loads
wherever the modules are registered, however they are: by ``nas.register()``, a bundle's module file, or a patched tree.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from nas.errors import WeightsError, one_line
from nas.model.host import build, register
from nas.model.render import ModelFiles, render
from nas.model.transfer import copy_matching, named_state, numbered_state, warm_start_layer
from nas.space.graph import LayerGraph
from nas.space.variant import Variant

_NUMBERED = re.compile(r"model\.\d+\..+")
_SEED = 0
"""Of what begins afresh: the same variant and weights give the same tensors."""


@dataclass(frozen=True)
class Given:
    """A file of weights, read.

    Attributes:
        path: Where it lies.
        tensors: Tensors by layer name, as `nas.model.transfer.named_state` names them; float32.
        nc: How many classes its head tells apart.
        names: Their names; empty if it does not say.
        origin: What it says of itself, for messages; empty if nothing.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    nc: int
    names: Mapping[int, str]
    origin: str


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint of a variant, and what it is made of.

    Attributes:
        name: Of the file.
        content: Its bytes.
        nc: Classes of its head: those of the given weights.
        other_nc: Whether the model YAML says another number.
        kept: How many of the given tensors are in it, in the layer of the same name and with the same values.
        given: How many there were.
        begun: Swapped layers that begin near what they replace.
        shared: Other swapped layers that have at least some of their tensors from what they replace.
        fresh: Swapped and inserted layers that have none.
        unmatched: The given tensors that are not in it as they were, by layer name.
    """

    name: str
    content: bytes
    nc: int
    other_nc: bool
    kept: int
    given: int
    begun: tuple[str, ...]
    shared: tuple[str, ...]
    fresh: tuple[str, ...]
    unmatched: tuple[str, ...]


def read_weights(path: Path, graph: LayerGraph) -> Given:
    """Read weights of a base's stock model: an Ultralytics checkpoint, or tensors alone. Nothing is ever downloaded.

    As with any Ultralytics checkpoint, reading one runs what it holds: take files from those you trust.

    Args:
        path: The file.
        graph: The base's layers, without swaps.

    Raises:
        WeightsError: It is not there, no checkpoint, or of a model with other layers.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is no file; weights are never downloaded: give the path of a .pt that is there")
    register()
    names: dict[int, str] = {}
    origin, layers = "", 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a checkpoint with classes in it, or none at all; the host tells
        model = _host_model(path)
        state, layers = model.float().state_dict(), len(model.model)
        names = dict(getattr(model, "names", None) or {})
        config = getattr(model, "yaml", None) or {}
        origin = f"{Path(str(config.get('yaml_file', 'a model'))).stem}, scale {config.get('scale') or 'unknown'}"
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in _tensors(state).items()}
    if tensors and all(_NUMBERED.fullmatch(key) for key in tensors):
        layers = layers or 1 + max(int(key.split(".")[1]) for key in tensors)
        if layers != len(graph.layers):
            said = f" ({origin})" if origin else ""
            raise WeightsError(
                f"{path} has {layers} layers{said}, {graph.title} has {len(graph.layers)}: give weights of the stock "
                "model"
            )
        tensors = named_state(tensors, graph)
    last = [key for key in tensors if key.startswith(f"{graph.names[-1]}:cv3.0.") and key.endswith(".bias")]
    if not last:
        raise WeightsError(f"{path} holds no detection model: expected an Ultralytics checkpoint of {graph.title}")
    return Given(path, tensors, tensors[last[-1]].numel(), names, origin)


def pretrained(variant: Variant, files: ModelFiles, given: Given) -> Pretrained:
    """Return the checkpoint of a variant that starts from the stock model's weights.

    Its head has the classes of the given weights; a training sets its own, and keeps the rest.

    Raises:
        WeightsError: The weights are of another model or scale.
        BuildError: The variant cannot be built.
    """
    stock = Variant(variant.base, variant.scale)
    graph, stock_graph = variant.graph(), stock.graph()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        baseline = build(render(stock).yaml, variant.scale, given.nc)
        model = build(files.yaml, variant.scale, given.nc)
    _check(given, named_state(baseline.state_dict(), stock_graph), variant, stock_graph.names[-1])
    copy_matching(baseline, stock_graph, given.tensors)
    copy_matching(model, graph, given.tensors)
    rows = {name: i for i, name in enumerate(stock_graph.names)}
    groups: dict[str, list[str]] = {"begun": [], "shared": [], "fresh": []}
    for layer, module in zip(graph.layers, _layers(model), strict=True):
        if not layer.swap:
            continue
        begun = layer.name in rows and warm_start_layer(module, _layers(baseline)[rows[layer.name]])
        partners = ((v, given.tensors.get(f"{layer.name}:{k}")) for k, v in module.state_dict().items())
        shared = any(old is not None and old.shape == new.shape for new, old in partners)
        groups["begun" if begun else "shared" if shared else "fresh"].append(layer.name)
    result = named_state(model.state_dict(), graph)
    kept = {k for k, v in given.tensors.items() if k in result and torch.equal(result[k], v)}
    return Pretrained(
        f"{files.name}.pt",
        _checkpoint(files, variant.scale, given, numbered_state(result, graph)),
        given.nc,
        given.nc != graph.nc,
        len(kept),
        len(given.tensors),
        tuple(groups["begun"]),
        tuple(groups["shared"]),
        tuple(groups["fresh"]),
        tuple(k for k in given.tensors if k not in kept),
    )


class _Call:
    """Pickles as a call: function, arguments and, if any, what the result's ``__setstate__`` gets."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def _checkpoint(files: ModelFiles, scale: str, given: Given, state: Mapping[str, torch.Tensor]) -> bytes:
    """Return the bytes of a checkpoint that builds its model from the model YAML's content."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    config = yaml.safe_load(files.yaml) | {"scale": scale, "nc": given.nc, "yaml_file": f"{files.name}.yaml"}
    names = dict(given.names) or {i: str(i) for i in range(given.nc)}
    model = _Call(tasks.DetectionModel, (config, 3, None, False), {"names": names})
    # The model comes first, and both mean one object: the second call fills it.
    content = {
        "epoch": -1,
        "model": model,
        "tensors": _Call(torch.nn.Module.load_state_dict, (model, dict(state))),
        "ema": None,
        "optimizer": None,
        "train_args": {},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _check(given: Given, own: Mapping[str, torch.Tensor], variant: Variant, head: str) -> None:
    """Refuse weights that differ from the stock model's before its head; releases differ in the head."""
    body = {k: v.shape for k, v in own.items() if not k.startswith(f"{head}:")}
    fits = sum(k in given.tensors and given.tensors[k].shape == shape for k, shape in body.items())
    if fits < len(body):
        said = f" (it says: {given.origin})" if given.origin else ""
        raise WeightsError(
            f"{given.path} is of another model or scale than {variant.base}{variant.scale}{said}: {fits} of the "
            f"{len(body)} tensors before the head fit; give weights of the stock {variant.base}{variant.scale}"
        )


def _host_model(path: Path) -> Any:
    """Return the model of an Ultralytics checkpoint."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    try:
        return tasks.load_checkpoint(str(path))[0]
    except Exception as error:  # whatever unpickling a stranger's file raises
        raise WeightsError(f"{path} is no checkpoint that can be read: {one_line(error)}") from None


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    """Return a mapping's tensors by name; empty if it is something else."""
    if not isinstance(state, Mapping):
        return {}
    return {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _layers(model: Any) -> Any:
    """Return a built model's layers in order."""
    return model.model
