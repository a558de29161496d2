"""The initial weights of a training: tensors of a baseline, a bank or a checkpoint, by layer name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nas.errors import ProxyError
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import copy_matching, named_state
from nas.model.weights_file import misfit, read_state
from nas.space.bases import load_base, task_of_base
from nas.space.graph import LayerGraph, with_letter
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob

State = dict[str, torch.Tensor]
"""Tensors by layer name."""


def variant_of(job: ProxyJob) -> Variant:
    """Return what the job trains."""
    return Variant(job.base, job.scale, job.swaps)


def graph_of(job: ProxyJob) -> LayerGraph:
    """Return the job's named layers."""
    return variant_of(job).graph()


def initial_state(job: ProxyJob, nc: int, kpt_shape: Sequence[int] | None = None) -> tuple[nn.Module, State, State]:
    """Return the baseline with the weights of the job's file, its own initial values, and the given tensors.

    Tensors that a file does not hold, such as the head of other classes, start from the initial values. Without a file
    both states are the same.

    Raises:
        ProxyError: The file does not fit the baseline.
    """
    baseline = Variant(job.base, job.scale)
    model = build(render(baseline).yaml, job.scale, nc, kpt_shape)
    own = named_state(model.state_dict(), load_base(job.base))
    if job.init is None:
        return model, own, own
    given = read_state(job.init, job.base)
    if problem := misfit(given, own, with_letter(job.base, job.scale), task_of_base(job.base)):
        raise ProxyError(f"{job.init} cannot be inherited from: {problem}")
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    copy_matching(model, load_base(job.base), shared)
    for file in job.overlay:
        shared.update(read_state(file, job.base, part=True))
    return model, own, shared
