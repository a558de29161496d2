"""CUDA without a GPU: modules and inputs of fake tensors, which have device, dtype and shape but no values.

Operators run their fakes, so a missing one, a tensor left on the CPU or two dtypes that do not go together show as they
would on a GPU. The autograd engine asks for a driver; `backward` walks through the graph in its place and checks what
the engine checks.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = "cuda"


@pytest.fixture(scope="module")
def fake_cuda():
    """Let autocast believe that there is a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        yield


def module_on(mode: FakeTensorMode, module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy of a module whose tensors are fakes on the GPU, in `dtype` if they are floating point.

    To be called outside of the mode, in which nothing real can be copied.
    """
    made = copy.deepcopy(module)
    known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def fake(t: torch.Tensor) -> torch.Tensor:
        if id(t) not in known:
            kind = dtype if dtype and t.is_floating_point() else t.dtype
            known[id(t)] = torch.empty_strided(t.shape, t.stride(), dtype=kind, device=DEVICE), t
        return known[id(t)][0]

    with mode:
        for part in made.modules():
            for name, p in part._parameters.items():
                if p is not None:
                    part._parameters[name] = nn.Parameter(fake(p), requires_grad=p.requires_grad)
            for name, b in part._buffers.items():
                if b is not None:
                    part._buffers[name] = fake(b)
            for name in ("anchors", "strides"):  # of the host's head, plain attributes that it moves with the model
                if isinstance(part.__dict__.get(name), torch.Tensor):
                    part.__dict__[name] = fake(part.__dict__[name])
            if isinstance(part.__dict__.get("stride"), torch.Tensor):
                part.__dict__["stride"] = part.__dict__["stride"].tolist()
    return made


def step(module: nn.Module, x, *, autocast: torch.dtype | None = None, train: bool = True) -> list[str]:
    """Run a module of fakes, in training with the backward, and return what is wrong."""
    with torch.autocast(DEVICE, autocast) if autocast else nullcontext(), nullcontext() if train else torch.no_grad():
        outputs = [t for t in tree_leaves(module.train(train)(x)) if isinstance(t, torch.Tensor)]
    found = [f"output on {y.device}" for y in outputs if y.device.type != DEVICE]
    if train:
        total = sum(y.float().sum() for y in outputs if y.requires_grad)
        found += backward(total)
    return found


def backward(loss: torch.Tensor) -> list[str]:
    """Run the nodes of a graph one by one, and return what the engine would object to."""
    waits: dict[object, int] = defaultdict(int)
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None:
                waits[following] += 1
                todo.append(following)
    sums: dict[object, dict[int, torch.Tensor]] = defaultdict(dict)
    sums[loss.grad_fn][loss.output_nr] = torch.ones_like(loss)
    ready, problems = [loss.grad_fn], []
    while ready:
        node = ready.pop()
        given = sums.pop(node, {})
        outputs: tuple = ()
        if node.name().endswith("AccumulateGrad"):
            _as_expected(node, given.get(0), node.variable, problems)
        elif given:
            grads = []
            for place, expected in enumerate(node._input_metadata):
                grad = _as_expected(node, given.get(place), expected, problems)
                if grad is None and not type(node).__name__.endswith("Backward0"):  # of Python: gets zeros
                    grad = torch.zeros(expected.shape, dtype=expected.dtype, device=expected.device)
                grads.append(grad)
            outputs = node.apply(*grads) if hasattr(node, "apply") and not callable(node) else node(*grads)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for place, (following, index) in enumerate(node.next_functions):
            if following is None:
                continue
            grad = outputs[place] if place < len(outputs) else None
            if grad is not None:
                before = sums[following].get(index)
                sums[following][index] = grad if before is None else before + grad
            waits[following] -= 1
            if not waits[following]:
                ready.append(following)
    return problems


def _as_expected(node, grad: torch.Tensor | None, expected, problems: list[str]) -> torch.Tensor | None:
    """Return a gradient in the shape and dtype that a node expects, as the engine makes it, and note what it cannot."""
    if grad is None:
        return None
    if grad.device.type != torch.device(expected.device).type:
        problems.append(f"{node.name()}: gradient on {grad.device}, not {expected.device}")
    shape = tuple(expected.shape)
    if tuple(grad.shape) != shape:
        try:
            grad = grad.sum_to_size(shape)
        except RuntimeError:
            problems.append(f"{node.name()}: gradient of shape {tuple(grad.shape)}, not {shape}")
    return grad.to(expected.dtype)
