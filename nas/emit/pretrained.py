"""A variant's initial weights from a checkpoint of the stock model, by layer name: inserted rows shift none.

Ultralytics matches tensors by row number: with one row inserted at 5, only 84 of YOLOv8's 355 tensors match. Here
every layer of the base inherits all of its tensors, a swapped one starts close to the layer that it replaces
(`nas.model.transfer.warm_start_layer`), and tensors that no layer inherits are listed. A yardstick takes the channels
with the largest weights (`nas.yardstick.channels`): there are no images here that could say more.

The file is an Ultralytics checkpoint that pickles no class of ours: in place of a model it holds a call of
Ultralytics' own class of models with the model YAML's content, and a call that loads the tensors. So it loads
wherever the modules are registered, however they are: by ``nas.register()``, a bundle's module file, or a patched tree.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from nas.errors import WeightsError
from nas.model.host import build
from nas.model.render import ModelFiles, render
from nas.model.transfer import copy_matching, named_state, narrow_tensors, numbered_state, warm_start_layer
from nas.model.weights_file import read_checkpoint
from nas.ops.stages import DECODER
from nas.space.bases import task_of_base
from nas.space.graph import LayerGraph
from nas.space.variant import Variant
from nas.task.task import DETECT, POSE, task_of_model
from nas.yardstick.channels import slice_model
from nas.yardstick.importance import weight_scores

_SEED = 0
"""Seed of randomly initialised layers: the same variant and weights give the same tensors."""


@dataclass(frozen=True)
class Given:
    """The content of a weights file.

    Attributes:
        path: Its path.
        tensors: Tensors by layer name, as `nas.model.transfer.named_state` names them; float32.
        nc: Number of classes of its head.
        names: Their names; empty if the file has none.
        origin: Name and scale of its model, for messages; empty if the file has none.
        kpt_shape: Of poses, the number of key points and of values of each; else empty.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    nc: int
    names: Mapping[int, str]
    origin: str
    kpt_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint of a variant, and where its tensors are from.

    Attributes:
        name: File name.
        content: Its bytes.
        nc: Classes of its head: those of the given weights.
        other_nc: Whether the model YAML has another number.
        kept: Number of the given tensors that it has unchanged, in the layer of the same name.
        given: Number of the given tensors.
        begun: Swapped layers that start close to the layer that they replace; of a yardstick all, which are pruned.
        distilled: Swapped layers with distilled tensors of a bank.
        shared: Other swapped layers with at least one tensor of the layer that they replace.
        fresh: Swapped and inserted layers without any: randomly initialised.
        unmatched: The given tensors that it lacks or has changed, by layer name.
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
    distilled: tuple[str, ...] = ()


def read_weights(path: Path, graph: LayerGraph) -> Given:
    """Read weights of a base's stock model: an Ultralytics checkpoint, or tensors alone.

    Nothing is ever downloaded, and no code of the file runs; see `nas.model.weights_file`.

    Args:
        path: The file.
        graph: The base's layers, without swaps.

    Raises:
        WeightsError: It is missing, no checkpoint, or of a model with other layers.
    """
    found = read_checkpoint(path)
    tensors = found.tensors
    if found.is_numbered:
        if found.layer_count != len(graph.layers):
            said = f" ({found.origin})" if found.origin else ""
            raise WeightsError(
                f"{path} has {found.layer_count} layers{said}, {graph.title} has {len(graph.layers)}: give weights of "
                "the stock model"
            )
        tensors = named_state(tensors, graph)
    of_classes = ("cv3.0.", "linear.", "enc_score_head.")  # the latter two of Classify and RTDETRDecoder
    ends = tuple(f"{graph.names[-1]}:{part}" for part in of_classes)
    last = [key for key in tensors if key.startswith(ends) and key.endswith(".bias")]
    if not last:
        what = task_of_base(graph.base).words
        raise WeightsError(f"{path} holds no {what} model: expected an Ultralytics checkpoint of {graph.title}")
    points = found.kpt_shape or _points_of(tensors, graph)
    return Given(path, tensors, tensors[last[-1]].numel(), found.names, found.origin, points)


def _points_of(tensors: Mapping[str, torch.Tensor], graph: LayerGraph) -> tuple[int, ...]:
    """Return the `Given.kpt_shape` of tensors alone, which have the number of values but not how many a point has.

    That is the base's where the number fits, else 3 where it is a multiple of 3, else 2. A training takes its data's.
    """
    own = dict(graph.constants).get("kpt_shape")
    head = graph.names[-1]
    ends = (tensors.get(f"{head}:{end}.bias") for end in ("cv4_kpts.0", "cv4.0.2"))  # the former since YOLO26
    last = next((end for end in ends if end is not None), None)
    if not isinstance(own, list | tuple) or last is None:
        return ()
    count, each = (int(str(number)) for number in own)
    if last.numel() == count * each:
        return count, each
    each = 2 if last.numel() % 3 else 3
    return last.numel() // each, each


def pretrained_checkpoint(
    variant: Variant, files: ModelFiles, given: Given, overlay: Mapping[str, torch.Tensor] | None = None
) -> Pretrained:
    """Return the checkpoint of a variant that starts from the stock model's weights.

    Its head has the classes of the given weights; a training replaces them by its own, and keeps the rest.

    Args:
        variant: The variant.
        files: Its rendered files.
        given: The stock model's weights.
        overlay: Tensors of swapped layers, by layer name, that replace how these would start: those of a bank.

    Raises:
        WeightsError: The weights are of another model or scale.
        BuildError: The variant cannot be built.
    """
    stock = Variant(variant.base, variant.scale)
    graph, stock_graph = variant.graph(), stock.graph()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        baseline = build(render(stock).yaml, variant.scale, given.nc, given.kpt_shape)
        model = build(files.yaml, variant.scale, given.nc, given.kpt_shape)
    _check(given, named_state(baseline.state_dict(), stock_graph), variant, stock_graph.names[-1])
    copy_matching(baseline, stock_graph, given.tensors)
    copy_matching(model, graph, given.tensors)
    if variant.width is not None:
        slice_model(baseline, model, stock_graph, weight_scores(baseline))
    rows = {name: i for i, name in enumerate(stock_graph.names)}
    groups: dict[str, list[str]] = {"begun": [], "shared": [], "fresh": [], "distilled": []}
    overlaid = {key.partition(":")[0] for key in overlay or {}}
    state = {**given.tensors, **(overlay or {})}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        narrow = narrow_tensors(variant, model, baseline, state, given.nc, given.kpt_shape) if variant.narrowed else {}
    for layer, module in zip(graph.layers, _layers(model), strict=True):
        if variant.width is not None and module.state_dict():
            groups["begun"].append(layer.name)
        if not layer.swap:
            continue
        if layer.name in overlaid:
            groups["distilled"].append(layer.name)
            continue
        if layer.name in variant.narrowed:
            started = f"{layer.name}:{DECODER}.weight" in narrow
            groups["begun" if started else "fresh"].append(layer.name)
            continue
        begun = layer.name in rows and warm_start_layer(module, _layers(baseline)[rows[layer.name]])
        partners = ((v, given.tensors.get(f"{layer.name}:{k}")) for k, v in module.state_dict().items())
        shared = any(old is not None and old.shape == new.shape for new, old in partners)
        groups["begun" if begun else "shared" if shared else "fresh"].append(layer.name)
    copy_matching(model, graph, {**(overlay or {}), **narrow})
    result = named_state(model.state_dict(), graph)
    kept = {k for k, v in given.tensors.items() if k in result and torch.equal(result[k], v)}
    return Pretrained(
        f"{files.name}.pt",
        checkpoint_of(files.name, files.yaml, variant.scale, given, numbered_state(result, graph)),
        given.nc,
        given.nc != graph.nc,
        len(kept),
        len(given.tensors),
        tuple(groups["begun"]),
        tuple(groups["shared"]),
        tuple(groups["fresh"]),
        tuple(k for k in given.tensors if k not in kept) if variant.width is None else (),
        tuple(groups["distilled"]),
    )


class _Call:
    """Pickles as a call: the function, its arguments and, optionally, the argument of the result's ``__setstate__``."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def checkpoint_of(name: str, text: str, scale: str, given: Given, state: Mapping[str, torch.Tensor]) -> bytes:
    """Return the bytes of a checkpoint that builds its model from the model YAML's content.

    Args:
        name: Stem of the model YAML's file name.
        text: The model YAML.
        scale: Scale letter.
        given: Says how many classes the head has, their names, and which key points.
        state: The tensors by row number.
    """
    tasks = importlib.import_module("ultralytics.nn.tasks")
    config = yaml.safe_load(text) | {"scale": scale, "nc": given.nc, "yaml_file": f"{name}.yaml"}
    config |= {"kpt_shape": list(given.kpt_shape)} if given.kpt_shape else {}
    names = dict(given.names) or {i: str(i) for i in range(given.nc)}
    task = task_of_model(config)
    quiet = ((None, None), False) if task is POSE else (False,)  # a model of poses is also given the data's kpt_shape
    model = _Call(getattr(tasks, task.model), (config, 3, None, *quiet), {"names": names})
    # Pickle stores the model once, and the second entry refers to it: the call there fills it.
    content = {
        "epoch": -1,
        "model": model,
        "tensors": _Call(torch.nn.Module.load_state_dict, (model, dict(state))),
        "ema": None,
        "optimizer": None,
        # Ultralytics takes the task from here, and a model without one for a detector.
        "train_args": {} if task is DETECT else {"task": task.host_name},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _check(given: Given, own: Mapping[str, torch.Tensor], variant: Variant, head: str) -> None:
    """Raise WeightsError if tensors before the head differ from the stock model's; releases differ in the head."""
    body = {k: v.shape for k, v in own.items() if not k.startswith(f"{head}:")}
    fits = sum(k in given.tensors and given.tensors[k].shape == shape for k, shape in body.items())
    if fits < len(body):
        said = f" (according to the file: {given.origin})" if given.origin else ""
        raise WeightsError(
            f"{given.path} is of another model or scale than {variant.stock}{said}: {fits} of the "
            f"{len(body)} tensors before the head fit; give weights of the stock {variant.stock}"
        )


def _layers(model: Any) -> Any:
    """Return a built model's layers in order."""
    return model.model
