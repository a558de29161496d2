"""What the ops have in common: checking arguments, following autocast, and completing an operator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch._library.custom_ops import CustomOpDef
from torch.jit._trace import TracerWarning
from torch.utils.flop_counter import register_flop_formula

from nas.ops.kernels.runtime import DTYPES
from nas.ops.kernels.self_test import SELF_TESTS, self_testing


def sizes(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape as numbers, also while a trace would make tensors of them. For checks and messages only."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # untyped in torch
        return tuple(tensor.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return tuple(int(size) for size in tensor.shape)


def check_tensor(op: str, name: str, tensor: object, dims: str, *, beside: torch.Tensor | None = None) -> None:
    """Check that an argument is a floating-point tensor of a rank, on one device with another.

    Args:
        op: Name of the op, for messages.
        name: Name of the argument.
        tensor: The argument.
        dims: Its dimensions, as ``(N, C, H, W)``.
        beside: The tensor that it has to be on one device with.

    Raises:
        TypeError: It is no tensor, or not of a floating-point dtype.
        ValueError: It has another rank, or is on another device.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} is of type {type(tensor).__name__}: expected a tensor {dims}")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{op}: {name} {sizes(tensor)} is {tensor.dtype}: expected a floating-point dtype")
    if tensor.dim() != dims.count(",") + 1:
        raise ValueError(f"{op}: {name} {sizes(tensor)}: expected {dims.count(',') + 1} dimensions {dims}")
    if beside is not None and tensor.device != beside.device:
        raise ValueError(f"{op}: {name} is on {tensor.device}, but the input on {beside.device}: expected one device")


def check_shape(op: str, name: str, tensor: torch.Tensor, expected: Sequence[int], x: torch.Tensor) -> None:
    """Check a shape that follows from the input's.

    Raises:
        ValueError: It is another; the message names both.
    """
    if sizes(tensor) != tuple(expected):
        raise ValueError(f"{op}: {name} {sizes(tensor)} for x {sizes(x)}: expected {tuple(expected)}")


def follow_autocast(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in the dtype of the active autocast, as the host's convolutions would; as it is without one."""
    kind = x.device.type
    if x.dtype in DTYPES and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def warn_not_deterministic(name: str) -> None:
    """Say that a backward kernel adds in an order that varies between runs, where PyTorch is told to be deterministic.

    Raises:
        RuntimeError: ``torch.use_deterministic_algorithms(True)`` without ``warn_only``.
    """
    if not torch.are_deterministic_algorithms_enabled() or self_testing():
        return
    message = (
        f"{name}: the gradient of the sampled input is summed by atomic additions, whose order varies between runs, as "
        "in torch.nn.functional.grid_sample on CUDA; there is no deterministic form"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(f"{message}. torch.use_deterministic_algorithms(True, warn_only=True) accepts it")
    warnings.warn(message, stacklevel=2)


def once_differentiable(name: str) -> Callable[..., NoReturn]:
    """Return a gradient for a backward operator that says why there is none."""

    def backward(_ctx: Any, *_: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: the gradient of the gradient is not offered: the kernels compute gradients directly, without a "
            "graph. NAS_KERNELS=reference takes plain PyTorch, as far as that differentiates twice"
        )

    return backward


def counts_flops(operator: CustomOpDef, formula: Callable[..., int]) -> None:
    """Give an operator its formula: (shapes of its tensors, other arguments) -> floating-point operations."""
    register_flop_formula(getattr(getattr(torch.ops, operator._namespace), operator._name))(formula)


def complete(
    name: str,
    operator: CustomOpDef,
    backward: CustomOpDef,
    flops: Callable[..., int],
    reference: Callable[..., torch.Tensor],
    example: tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]],
    *,
    kept: int = 0,
) -> None:
    """Give an operator ``torch.ops.nas.NAME`` its gradient, vmap rules, FLOP formulas and self-test.

    Args:
        name: Of the op.
        operator: (two tensors, other arguments) -> the output, then `kept` tensors that the gradient takes.
        backward: (gradient of the output, the two tensors, what is kept, other arguments, whether the first tensor's
            gradient is wanted) -> the tensors' gradients, the first without elements if it is not wanted.
        flops: (shapes of the two tensors, other arguments) -> floating-point operations of the forward, two for each
            multiply-accumulate. The backward counts twice as many.
        reference: The operator's output in plain PyTorch.
        example: Of the self-test: shapes of the two tensors, and the other arguments.
        kept: See `operator`.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        first, second, *ctx.arguments = inputs
        extra = output[1:] if kept else ()
        ctx.save_for_backward(first, second, *extra)
        ctx.mark_non_differentiable(*extra)

    def gradient(ctx: Any, dy: torch.Tensor, *_: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        wanted = ctx.needs_input_grad[0]
        first, second = backward(dy, *ctx.saved_tensors, *ctx.arguments, wanted)
        return (first if wanted else None, second, *(None for _ in ctx.arguments))

    operator.register_autograd(gradient, setup_context=setup)
    backward.register_autograd(once_differentiable(name))
    operator.register_vmap(_fold_batch(operator, 2, 1 + kept))
    backward.register_vmap(_fold_batch(backward, 3 + kept, 2))

    def forward_flops(first: Any, second: Any, *arguments: Any, **_: Any) -> int:
        return flops(first, second, *arguments)

    def backward_flops(_dy: Any, first: Any, second: Any, *arguments: Any, **_: Any) -> int:
        return 2 * flops(first, second, *arguments[kept:-1])

    counts_flops(operator, forward_flops)
    counts_flops(backward, backward_flops)

    *shapes, arguments = example

    def kernels(tensors: list[torch.Tensor], weigh: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        made = operator(*tensors, *arguments)
        y, *extra = made if kept else (made,)
        return [y, *backward(weigh(y), *tensors, *extra, *arguments, True)]

    self_tested(operator, kernels, lambda *tensors: reference(*tensors, *arguments), shapes)


def self_tested(
    operator: CustomOpDef,
    kernels: Callable[[list[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]], list[torch.Tensor]],
    reference: Callable[..., torch.Tensor],
    shapes: Sequence[tuple[int, ...]],
    *,
    last: bool = False,
) -> None:
    """Give an operator the test that its kernels pass on a device before they are used.

    Args:
        operator: The operator; the test has its name.
        kernels: (tensors, a function from the output to its gradient) -> the output and the gradients of the tensors.
            It asks autograd for nothing, whose threads are others.
        reference: (tensors) -> the output, in plain PyTorch.
        shapes: Of the tensors.
        last: Whether maps are channels last.
    """

    def weigh(output: torch.Tensor) -> torch.Tensor:
        return torch.arange(output.numel()).remainder(5).view(output.shape).to(output)

    def operands(device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        # The same numbers everywhere; as offsets, none points at a whole pixel, where two pieces of a formula meet.
        tensors = [
            (torch.arange(math.prod(shape)).mul(7 + k).remainder(11).mul(0.09) + 0.03).view(shape).to(device, dtype)
            for k, shape in enumerate(shapes)
        ]
        return [t.contiguous(memory_format=torch.channels_last) if last and t.dim() == 4 else t for t in tensors]

    def test(device: torch.device) -> None:
        tensors = [t.requires_grad_() for t in operands(torch.device("cpu"), torch.float64)]
        output = reference(*tensors)
        grads = torch.autograd.grad((output * weigh(output)).sum(), tensors, allow_unused=True)
        expected = [output.detach(), *(g for g in grads if g is not None)]
        with torch.no_grad():
            found = kernels(operands(device, torch.float32), weigh)
        for mine, true in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.cpu().double(), true, rtol=1e-3, atol=1e-3)

    SELF_TESTS[operator._name] = test


def _fold_batch(op: Callable[..., Any], tensors: int, outputs: int) -> Callable[..., tuple[Any, Any]]:
    """Return a vmap rule: the new dimension joins the batch, which comes first in all tensors in and out.

    Args:
        op: The operator.
        tensors: Number of its leading tensor arguments.
        outputs: Number of its outputs.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [
            (tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)).flatten(0, 1)
            for tensor, dim in zip(args[:tensors], in_dims[:tensors], strict=True)
        ]
        result = op(*folded, *args[tensors:])
        several = result if outputs > 1 else (result,)
        split = tuple(r.unflatten(0, (size, r.shape[0] // size)) for r in several)
        return (split, (0,) * outputs) if outputs > 1 else (split[0], 0)

    return rule
