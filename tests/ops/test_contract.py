"""What every registered module promises. A new module is tested by being registered.

Each entry is built with its defaults, and again with every other value of its options and flags, for every stride and
kernel of `SLOTS` that it fits.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import pickle
import warnings
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import pytest
import thop
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.tasks import BaseModel

import nas.ops  # noqa: F401  registers the modules
from nas.ops.registry import Entry, Value, entries, macs_rules

C1, C2 = 16, 24
SLOTS: dict[str, list[dict[str, Value]]] = {
    "same": [{"scale": 2}, {"scale": 4}],
    "conv": [
        {"kernel": 3, "stride": 1},
        {"kernel": 3, "stride": 2},
        {"kernel": 1, "stride": 1},
        {"kernel": 5, "stride": 2},
    ],
    "block": [{"shortcut": True}],
}
CHANNELS = {"same": ("c",), "conv": ("c1", "c2"), "block": ("c1", "c2", "n")}
REDUNDANT = {"conv1x1.bias"}
"""Parameters that a later batch norm cancels, kept so that the authors' checkpoints load."""


@dataclass(frozen=True)
class Case:
    """An entry, the slot that it goes into, and what is chosen for it."""

    entry: Entry
    slot: dict[str, Value]
    given: dict[str, Value] = field(default_factory=dict)

    def build(self) -> nn.Module:
        args = self.entry.row_args(self.slot, self.given)
        channels = {"same": (C1,), "conv": (C1, C2), "block": (C1, C2, 2)}[self.entry.rule]
        return self.entry.cls(*channels, *args)

    def shape(self, n: int, h: int, w: int) -> tuple[int, ...]:
        if self.entry.rule == "block":
            return (n, C2, h, w)
        if self.entry.rule == "conv":
            k, s = int(self.slot["kernel"]), int(self.slot["stride"])
            return tuple(nn.Conv2d(C1, C2, k, s, k // 2)(torch.zeros(n, C1, h, w)).shape)
        scale = int(self.slot["scale"]) if "up" in self.entry.kinds else 1
        return (n, C1, h * scale, w * scale)

    def __str__(self) -> str:
        chosen = "".join(f",{k}={v}" for k, v in self.given.items())
        slot = "".join(f"{key[0]}{value}" for key, value in self.slot.items())
        return f"{self.entry.name}({slot}{chosen})"


def _cases() -> list[Case]:
    cases = []
    for entry in entries().values():
        slots = [slot for slot in SLOTS[entry.rule] if entry.fits is None or entry.fits(slot)]
        cases += [Case(entry, slot) for slot in slots]
        for arg in entry.args.values():
            others: list[Value] = [o for o in arg.options if o != arg.default]
            if isinstance(arg.default, bool):
                others = [not arg.default]
            cases += [Case(entry, slots[0], {arg.name: other}) for other in others]
    return cases


CASES = _cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_entry = pytest.mark.parametrize("entry", entries().values(), ids=lambda e: e.name)


def image(n: int = 2, h: int = 6, w: int = 9) -> torch.Tensor:
    return torch.randn(n, C1, h, w)


def run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(x)


# The constructor


@every_entry
def test_arguments_are_where_the_constructor_expects_them(entry):
    names = list(inspect.signature(entry.cls).parameters)
    expected = [*CHANNELS[entry.rule], *(p.name for p in entry.params)]
    assert names[: len(expected)] == expected


@every_entry
def test_defaults_are_the_constructors(entry):
    parameters = inspect.signature(entry.cls).parameters
    for arg in entry.args.values():
        assert parameters[arg.name].default == arg.default
        assert type(parameters[arg.name].default) is type(arg.default)
        assert arg.check(arg.default) == arg.default


@every_entry
def test_bounds_of_every_argument_build(entry):
    """Each bound alone, with the other arguments at their defaults."""
    slot = next(s for s in SLOTS[entry.rule] if entry.fits is None or entry.fits(s))
    for arg in entry.args.values():
        for bound in (arg.low, arg.high):
            if bound is None or isinstance(arg.default, bool):
                continue
            value = arg.check(bound)
            case = Case(entry, slot, {arg.name: value})
            with contextlib.suppress(ValueError):  # a bound may ask for more than these channels offer
                assert run(case.build().eval(), image(1, 4, 5)).shape == case.shape(1, 4, 5)


@every_case
def test_no_attribute_that_the_host_overwrites(case):
    for module in case.build().modules():
        taken = {"i", "f", "type", "np"} & {*vars(module), *module._modules, *module._parameters, *module._buffers}
        own = {name for name in taken if not callable(getattr(nn.Module, name, None))}
        assert not own, f"Ultralytics writes to {own} of a layer"


@every_case
def test_same_seed_same_result(case):
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        module, x = case.build(), image()
        y = module(x)
        y.sum().backward()
        results.append([y.detach(), *(p.grad for p in module.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


# The forward


@every_case
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (1, 1), (1, 4)], ids=str)
def test_shape(case, size):
    module = case.build().eval()
    for n in (1, 2):
        assert tuple(run(module, image(n, *size)).shape) == case.shape(n, *size)


@every_case
def test_trains_with_a_batch_of_one(case):
    x = image(1, 3, 5).requires_grad_()
    y = case.build().train()(x)
    assert tuple(y.shape) == case.shape(1, 3, 5)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@every_case
def test_every_parameter_learns_within_two_steps(case):
    module = case.build().double().train()
    x = image().double()
    target = torch.randn(case.shape(2, 6, 9), dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    asleep = {name for name, _ in module.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            if p.grad.abs().max() > 1e-10:
                asleep.discard(name)
        optimizer.step()
    assert {name for name in asleep if not any(name.endswith(r) for r in REDUNDANT)} == set()


@every_case
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)], ids=["half", "bfloat16"])
def test_half_precision(case, perturb, dtype, limit):
    """Error relative to the signal, rms. Rounding every layer costs about 2**-10 and 2**-7 a layer."""
    module, x = perturb(case.build()).eval(), image(2, 12, 9)
    expected = run(module, x)
    y = run(copy.deepcopy(module).to(dtype), x.to(dtype))
    assert y.dtype == dtype
    error = (y.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < limit


@every_case
def test_autocast(case):
    module, x = case.build().train(), image().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert tuple(y.shape) == case.shape(2, 6, 9)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_case
def test_layout_does_not_matter(case, perturb):
    module = perturb(case.build()).eval()
    big = torch.randn(2, C1 + 3, 12, 18)
    x = big[:, 1 : C1 + 1, ::2, ::2]
    expected = run(module, x.contiguous())
    for other in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(run(module, other), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(module.to(memory_format=torch.channels_last), x), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_input_is_not_changed_and_nothing_is_printed(case, capsys):
    module, x = case.build(), image()
    before = x.clone()
    module(x)
    assert torch.equal(x, before)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


# Copies


@every_case
def test_copy_after_a_forward_with_gradients(case):
    """As the moving average of the weights does, which fails where a module keeps an activation."""
    module = case.build()
    y = module(image())
    copied = copy.deepcopy(module)
    y.sum().backward()
    assert copied(image()).shape == y.shape
    for m in module.modules():
        assert not any(isinstance(v, torch.Tensor) for v in vars(m).values())


@every_case
def test_pickle(case, perturb):
    module, x = perturb(case.build()).eval(), image()
    module(x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    expected = run(module, x)
    assert torch.equal(run(torch.load(buffer, weights_only=False), x), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(module)), x), expected)


@every_case
def test_state_dict_round_trip(case, perturb):
    module, other, x = perturb(case.build()).eval(), case.build().eval(), image()
    assert not torch.equal(run(other, x), run(module, x))
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(run(other, x), run(module, x))


# What the host does with a model


class Host(BaseModel):
    """An Ultralytics model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(layer)

    def is_fused(self, thresh: int = 0) -> bool:  # the host's own looks at the number of norms
        return False


@every_case
def test_fuse_changes_nothing(case, perturb):
    module, x = perturb(case.build()).eval(), image()
    expected = run(module, x)
    Host(module).fuse(verbose=False)
    torch.testing.assert_close(run(module, x), expected, rtol=1e-4, atol=1e-4)


@every_case
def test_trace(case, perturb):
    module, x = perturb(case.build()).eval(), image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the host still exports so
        traced = torch.jit.trace(module, x, check_trace=False)
    torch.testing.assert_close(run(traced, x), run(module, x), rtol=1e-4, atol=1e-4)
    for other in (image(3), image(1)):
        torch.testing.assert_close(run(traced, other), run(module, other), rtol=1e-4, atol=1e-4)


@every_case
def test_onnx(case, perturb, tmp_path):
    """Exported as Ultralytics does, at batch 1; run at other batches and sizes."""
    module = perturb(case.build()).eval()
    path = str(tmp_path / "module.onnx")
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (image(1),),
            path,
            opset_version=17,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (image(1), image(2), image(3, 8, 5)):
        (y,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(y, run(module, x).numpy(), rtol=1e-3, atol=2e-4)


@every_entry
def test_export_for_any_batch(entry, perturb):
    """By torch.export, which newer ONNX exporters and compilers start from."""
    slot = next(s for s in SLOTS[entry.rule] if entry.fits is None or entry.fits(s))
    module = perturb(Case(entry, slot).build()).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (image(2),), dynamic_shapes=({0: batch},))
    for x in (image(1), image(3)):
        torch.testing.assert_close(program.module()(x), run(module, x), rtol=1e-4, atol=1e-4)


# Costs


def counted(module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Return the MACs of convolutions and linears, and of all that the rules state."""
    layers, stated, handles, rules = [0], [0], [], macs_rules()

    def add(m, inputs, output):
        if isinstance(m, nn.Conv2d):
            layers[0] += output.numel() * m.weight[0].numel()
        elif isinstance(m, nn.Linear):
            layers[0] += output.numel() * m.in_features
        rule = next((rules[cls] for cls in type(m).__mro__ if cls in rules), None)
        if rule is not None:
            macs = rule(m, inputs, output)
            assert isinstance(macs, int)
            assert macs > 0
            stated[0] += macs

    for m in module.modules():
        handles.append(m.register_forward_hook(add))
    run(module, x)
    for handle in handles:
        handle.remove()
    return layers[0], stated[0]


CLOSED = {  # a pixel, and an image: defaults, C1 = 16 to C2 = 24 channels
    "CARAFE": (C1 * 64 + 64 * 9 * 5**2 * 2**2 + 5**2 * C1 * 2**2, 0),
    "DySample": (C1 * 2 * 4 * 2**2 + 4 * C1 * 2**2, 0),
    "DynamicConv": (C1 * C2 * 9, 4 * C1 * C2 * 9 + C1 * 4),
    "SPConv": (9 * 8 * C2 // 2 + 8 * C2 + 8 * C2 + C2, 0),
    "DCNv4": (C1 * C1 + C1 * C2 + C1 * 32 + 9 * (4 * C1 + 10), 0),
    # two 1x1 convolutions around two bottlenecks of C2 / 2 = 12 channels, a 3x3 convolution and the other one
    "C2f_SPConv": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 + 9 * 6 * 12 // 2 + 6 * 12 + 6 * 12 + 12), 0),
    "C2f_DynamicConv": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 * 2), 2 * (4 * 12 * 12 * 9 + 12 * 4)),
    "C2f_DCNv4": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 + 2 * 12 * 12 + 12 * 32 + 9 * (4 * 12 + 10)), 0),
}


@pytest.mark.parametrize("name", CLOSED)
def test_macs_are_the_closed_form(name):
    case = next(c for c in CASES if c.entry.name == name)
    pixel, whole = CLOSED[name]
    assert sum(counted(case.build().eval(), image(1, 20, 24))) == 20 * 24 * pixel + whole


@every_case
def test_macs_cover_all_that_torch_counts(case):
    """Torch counts convolutions and products, wherever they are; rules add what it does not see, such as sampling."""
    module, x = case.build().eval(), image(1, 20, 24)
    layers, stated = counted(module, x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    seen = counter.get_total_flops() / 2
    assert layers + stated >= 0.99 * seen
    if stated == 0:
        assert layers == pytest.approx(seen, rel=0.01)
    else:
        assert layers <= 1.01 * seen


@every_case
def test_macs_grow_with_the_image_and_the_batch(case):
    module = case.build().eval()
    layers, stated = counted(module, image(1, 16, 16))
    assert counted(module, image(2, 16, 16)) == (2 * layers, 2 * stated)
    if stated:
        ratio = counted(module, image(1, 64, 32))[1] / stated
        assert 1 < ratio <= 8
        assert math.isclose(ratio, 8, rel_tol=0.6)


@every_case
def test_macs_of_the_hosts_counter(case, monkeypatch):
    """With the rules in its table, thop's total is ours: products inside a module with a rule are not counted twice."""
    module, x = case.build().eval(), image(1, 16, 8)

    def hook(rule):
        def add(m, inputs, output):
            m.total_ops += rule(m, inputs, output)

        return add

    def nothing(m, inputs, output):
        pass

    rules = {cls: hook(rule) for cls, rule in macs_rules().items()} | {nn.BatchNorm2d: nothing}
    total = thop.profile(module, (x,), custom_ops=rules, verbose=False)[0]
    assert total == sum(counted(module, x))


@every_entry
def test_numbers_have_bounds(entry):
    for arg in entry.args.values():
        if isinstance(arg.default, int | float) and not isinstance(arg.default, bool):
            assert arg.low is not None, arg.name
            assert arg.high is not None, arg.name
