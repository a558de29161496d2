"""The initial weights of a training: tensors of a baseline, a bank or a checkpoint, by layer name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nas.errors import ProxyError, WeightsError
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import copy_matching, named_state
from nas.model.weights_file import read_checkpoint
from nas.space.bases import load_base
from nas.space.graph import LayerGraph
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob

_LEAST_SHARED = 0.8
"""Minimum share of the baseline's tensors that a file of initial weights has to hold; the class head may differ."""
State = dict[str, torch.Tensor]
"""Tensors by layer name."""


def graph_of(job: ProxyJob) -> LayerGraph:
    """Return the job's named layers."""
    return Variant(job.base, job.scale, job.swaps).graph()


def initial_state(job: ProxyJob, nc: int) -> tuple[nn.Module, State, State]:
    """Return the baseline with the weights of the job's file, its own initial values, and the given tensors.

    Tensors that a file does not hold, such as the head of other classes, start from the initial values. Without a file
    both states are the same.

    Raises:
        ProxyError: The file does not fit the baseline.
    """
    baseline = Variant(job.base, job.scale)
    model = build(render(baseline).yaml, job.scale, nc)
    own = named_state(model.state_dict(), load_base(job.base))
    if job.init is None:
        return model, own, own
    given = _read_state(job.init, job.base)
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if len(shared) < _LEAST_SHARED * len(own):
        raise ProxyError(
            f"{job.init} holds only {len(shared)} of the {len(own)} tensors of {job.base}{job.scale}: "
            "it is of another model or scale"
        )
    copy_matching(model, load_base(job.base), shared)
    for file in job.overlay:
        shared.update(_read_state(file, job.base))
    return model, own, shared


def weights_problem(path: str, base: str, scale: str) -> str:
    """Return why the baseline cannot start from a file of weights; empty if it can."""
    try:
        given = _read_state(path, base)
    except (ProxyError, WeightsError) as error:
        return str(error)
    own = named_state(build(render(Variant(base, scale)).yaml, scale).state_dict(), load_base(base))
    shared = sum(k in own and own[k].shape == v.shape for k, v in given.items())
    if shared < _LEAST_SHARED * len(own):
        return f"it holds only {shared} of the {len(own)} tensors of {base}{scale}: it is of another model or scale"
    return ""


def _read_state(path: str, base: str) -> State:
    """Return named tensors from a file of this tool, from an Ultralytics checkpoint or tensors of the same base.

    Raises:
        WeightsError: It cannot be read.
        ProxyError: It is of another base.
    """
    found = read_checkpoint(Path(path))
    if not found.is_numbered:
        return dict(found.tensors)
    graph = load_base(base)
    if found.layer_count != len(graph.layers):
        raise ProxyError(f"{path} has {found.layer_count} layers, {base} has {len(graph.layers)}")
    return dict(named_state(found.tensors, graph))
