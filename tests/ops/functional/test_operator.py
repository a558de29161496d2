"""What every op promises beside its values: tracing, first-order gradients, vmap, autocast, costs and clear errors."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.ops.functional.carafe import carafe, carafe_backward, carafe_operator, carafe_reference
from nas.ops.functional.dcnv4 import dcnv4, dcnv4_backward, dcnv4_operator, dcnv4_reference
from nas.ops.functional.dysample import dysample, dysample_backward, dysample_operator, dysample_reference

LAST = torch.channels_last
DCN = ([3, 3], [1, 1], [1, 1], [1, 1], 2, 1.0, False)


class Op:
    """An op with arguments: its public function, operators and reference."""

    def __init__(self, name, public, operator, backward, reference, shapes, arguments):
        self.name = name
        self.public = public
        self.operator = operator
        self.backward = backward
        self.reference = reference
        self.shapes = shapes
        self.arguments = arguments

    def tensors(self, dtype=torch.float32, device="cpu"):
        x, second = (torch.randn(shape, dtype=dtype, device=device) for shape in self.shapes)
        return (x if self.name == "dcnv4" else x.contiguous(memory_format=LAST)), second

    def output(self, result):
        return result[0] if isinstance(result, tuple) else result


OPS = [
    Op(
        "dcnv4",
        lambda x, om: dcnv4(x, om, kernel=3, pad=1, groups=2),
        dcnv4_operator,
        dcnv4_backward,
        dcnv4_reference,
        ((2, 5, 7, 32), (2, 5, 7, 59)),
        DCN,
    ),
    Op(
        "carafe",
        lambda x, logits: carafe(x, logits, 5, 2),
        carafe_operator,
        carafe_backward,
        carafe_reference,
        ((2, 24, 5, 7), (2, 100, 5, 7)),
        (5, 2),
    ),
    Op(
        "dysample",
        lambda x, offset: dysample(x, offset, 2, 4, factor=0.25, initial=True),
        dysample_operator,
        dysample_backward,
        dysample_reference,
        ((2, 32, 5, 7), (2, 32, 5, 7)),
        (2, 4, 0.25, True),
    ),
]
every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


@every_op
def test_opcheck_with_kernels(op, kernels):
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    torch.library.opcheck(op.operator, (*tensors, *op.arguments))
    result = op.operator(*tensors, *op.arguments)
    dy = torch.randn_like(op.output(result))
    saved = (result[1].detach(),) if isinstance(result, tuple) else ()
    detached = [t.detach() for t in tensors]
    for wanted in (True, False):
        torch.library.opcheck(op.backward, (dy, *detached, *saved, *op.arguments, wanted))


@every_op
def test_the_operator_without_kernels_is_the_reference(op):
    """Called directly, on a device or dtype that has none."""
    tensors = [t.double().requires_grad_() for t in op.tensors()]
    y = op.output(op.operator(*tensors, *op.arguments))
    expected = op.reference(*tensors, *op.arguments)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for mine, true in zip(torch.autograd.grad(y, tensors, dy), torch.autograd.grad(expected, tensors, dy), strict=True):
        torch.testing.assert_close(mine, true)


@every_op
def test_gradcheck_of_the_reference(op):
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "dcnv4": ((1, 3, 4, 4), (1, 3, 4, 54), DCN),
        "carafe": ((1, 2, 3, 3), (1, 36, 3, 3), (3, 2)),
        "dysample": ((1, 4, 3, 4), (1, 16, 3, 4), (2, 2, 0.25, True)),
    }
    first, second, arguments = shapes[op.name]
    tensors = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in (first, second)]
    assert torch.autograd.gradcheck(lambda *t: op.reference(*t, *arguments), tensors)


@every_op
def test_compiles_into_one_graph(op, kernels):
    """Forward and backward; the operator is one node of the graph."""
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    y = op.public(*tensors)
    dy = torch.randn_like(y)
    expected = torch.autograd.grad(y, tensors, dy)
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(op.public, fullgraph=True, backend=backend)(*tensors)
    torch.testing.assert_close(compiled, y)
    assert any(f"nas.{op.name}" in target for target in seen)
    torch._dynamo.reset()
    compiled = torch.compile(op.public, fullgraph=True, backend="aot_eager")(*tensors)
    for mine, true in zip(torch.autograd.grad(compiled, tensors, dy), expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


@every_op
def test_the_reference_compiles_into_one_graph(op):
    tensors = [t.requires_grad_() for t in op.tensors()]
    torch._dynamo.reset()
    y = torch.compile(op.public, fullgraph=True, backend="aot_eager")(*tensors)
    torch.testing.assert_close(y, op.public(*tensors))
    y.sum().backward()


@every_op
def test_double_backward_says_why_not(op, kernels):
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    gradient, _ = torch.autograd.grad(op.public(*tensors).square().sum(), tensors, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"{op.name}: the gradient of the gradient is not offered: .*reference"):
        gradient.sum().backward()


@every_op
def test_deterministic_mode(op, kernels):
    """Kernels that add atomically are refused, or with `warn_only` warned about; CARAFE's are deterministic."""
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    try:
        torch.use_deterministic_algorithms(True)
        y = op.public(*tensors)
        if op.name == "carafe":
            torch.autograd.grad(y.sum(), tensors)
            return
        with pytest.raises(RuntimeError, match=f"{op.name}: .*atomic additions, whose order varies"):
            torch.autograd.grad(y.sum(), tensors, retain_graph=True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match=f"{op.name}: .*atomic additions"):
            torch.autograd.grad(y.sum(), tensors)
    finally:
        torch.use_deterministic_algorithms(False)


@every_op
def test_vmap_joins_the_batch(op, kernels):
    tensors = op.tensors(device=kernels)
    several = [torch.stack([t, t.flip(0), 2 * t]) for t in tensors]
    run = lambda *t: op.output(op.operator(*t, *op.arguments))  # noqa: E731
    torch.testing.assert_close(torch.vmap(run)(*several), torch.stack([run(*t) for t in zip(*several, strict=True)]))
    # One operand without the new dimension, the other with it in the middle.
    mapped = torch.vmap(run, in_dims=(2, None))(several[0].movedim(0, 2), tensors[1])
    torch.testing.assert_close(mapped, torch.stack([run(x, tensors[1]) for x in several[0]]))


@every_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_decides_the_dtype(op, dtype, kernels):
    """Of the result, also where the operands are float32; gradients are of the operands' dtypes."""
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    with torch.autocast(tensors[0].device.type, dtype):
        y = op.public(*tensors)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert [t.grad.dtype for t in tensors] == [torch.float32, torch.float32]
    torch.testing.assert_close(y.float(), op.public(*tensors).detach(), rtol=0.02, atol=0.05)


@every_op
def test_autocast_leaves_float64_alone(op):
    with torch.autocast("cpu", torch.bfloat16):
        assert op.public(*op.tensors(torch.float64)).dtype == torch.float64


@every_op
def test_shapes_alone_suffice(op):
    """On the device without values, which costs are counted on."""
    y = op.public(*(t.to("meta") for t in op.tensors()))
    assert y.device.type == "meta"
    assert y.shape == op.public(*op.tensors()).shape


FLOPS = {  # forward, at the shapes above
    "dcnv4": 2 * 2 * 5 * 7 * 9 * (4 * 32 + 10 * 2),
    "carafe": 2 * 2 * 24 * 10 * 14 * 25,
    "dysample": 2 * 4 * 2 * 32 * 10 * 14,
}


@every_op
def test_flops_are_counted(op, kernels):
    tensors = [t.requires_grad_() for t in op.tensors(device=kernels)]
    with FlopCounterMode(display=False) as counter:
        y = op.public(*tensors)
    assert counter.get_total_flops() == FLOPS[op.name]
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * FLOPS[op.name]


def traced(function):
    """Return the ways to call: directly, compiled, and under three kinds of tracing."""

    def compiled(*tensors):
        torch._dynamo.reset()
        return torch.compile(function, backend="aot_eager")(*tensors)

    def exported(*tensors):
        class Module(torch.nn.Module):
            def forward(self, *t):
                return function(*t)

        return torch.export.export(Module(), tensors, strict=False)

    def jit(*tensors):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(function, tensors, check_trace=False)

    return {"called": function, "compiled": compiled, "exported": exported, "traced": jit}


WRONG = {
    "no tensor": (lambda x, s: (x, [1.0]), TypeError, r"of type list: expected a tensor"),
    "whole numbers": (lambda x, s: (x.long(), s), TypeError, r"x \(.*\) is torch.int64: expected a floating-point"),
    "rank of the input": (lambda x, s: (x[0], s), ValueError, r"x \(\d+, \d+, \d+\): expected 4 dimensions \(N"),
    "rank of the other": (lambda x, s: (x, s[0]), ValueError, r"\(\d+, \d+, \d+\): expected 4 dimensions \(N"),
    "batch": (lambda x, s: (x, s[:1]), ValueError, r"\(1, .*\) for x \(2, .*\): expected \(2, "),
    "entries": (lambda x, s: (x, s[:, :15, :, :15]), ValueError, r"for x .*: expected"),
    "channels": (lambda x, s: (x[:, :15, :, :15], s), ValueError, r"15 channels in \d groups|for x .*: expected"),
    "device": (lambda x, s: (x, s.to("meta")), ValueError, r"is on meta, but the input on cpu: expected one device"),
}


@every_op
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("way", ["called", "compiled", "exported", "traced"])
def test_bad_input(op, wrong, way):
    """The same error with and without tracing; a message names the op, the tensor, its shape and the expected one."""
    make, kind, message = WRONG[wrong]
    arguments = make(*op.tensors())
    if way != "called" and (wrong in ("no tensor", "device")):
        pytest.skip("the tracers have errors of their own for this")
    if op.name == "carafe" and wrong == "channels":
        pytest.skip("takes any number of channels")
    if op.name == "dcnv4" and wrong == "channels":
        arguments = (op.tensors()[0][..., :15], op.tensors()[1])
    with pytest.raises(kind, match=f"{op.name}: .*({message})"):
        traced(op.public)[way](*arguments)
