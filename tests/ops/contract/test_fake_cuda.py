"""Every registered module on a GPU that is not there: devices, dtypes and fakes, forward and backward."""

from __future__ import annotations

import pytest
import torch
from contract_cases import CASES, each, every_case
from fake_cuda import DEVICE, fake_cuda, module_on, step  # noqa: F401  the second is a fixture
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nas.ops.kernels import runtime

pytestmark = pytest.mark.usefixtures("fake_cuda")

MODES = {
    "float32 training": (None, torch.float32, None, True),
    "float16": (torch.float16, torch.float16, None, False),
    "bfloat16": (torch.bfloat16, torch.bfloat16, None, False),
    "autocast": (None, torch.float32, torch.float16, True),
}
"""By name: dtype of the weights, dtype of the input, autocast, and whether it trains."""
PLAIN = ("float16", "autocast")
"""Modes of a module whose kernels are not used."""


@every_case
def test_everything_is_on_the_gpu(case, monkeypatch):
    """With kernels; and without them, where the module has any."""
    real, x, asked = case.build(), case.inputs(2, 8, 12), []
    monkeypatch.setattr(runtime, "mode", lambda: asked.append("auto") or "auto")
    run(real, x)
    if asked:
        monkeypatch.setattr(runtime, "mode", lambda: "reference")
        run(real, x, PLAIN)


def run(real, x, modes=tuple(MODES)):
    """Run a module in some modes."""
    for name in modes:
        dtype, input_dtype, autocast, train = MODES[name]
        mode = FakeTensorMode(allow_non_fake_inputs=False)
        module = module_on(mode, real, dtype)
        with mode:
            fakes = each(
                x,
                lambda t, kind=input_dtype, train=train: torch.empty(
                    t.shape, dtype=kind, device=DEVICE, memory_format=torch.channels_last
                ).requires_grad_(train),
            )
            assert step(module, fakes, autocast=autocast, train=train) == [], name


def test_kernels_are_asked_for(monkeypatch):
    """Or the runs with kernels would have shown nothing of them."""
    if runtime.unavailable():
        pytest.skip(runtime.unavailable())
    for name in ("CARAFE", "DySample", "DCNv4", "SPConv"):
        ran = []
        case = next(case for case in CASES if case.entry.name == name)
        with Noting(ran):
            run(case.build(), case.inputs(2, 8, 12), ["autocast"])
        assert any(op.startswith("nas.") and op.endswith("_backward.default") for op in ran), name


class Noting(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self, ran: list[str]) -> None:
        super().__init__()
        self.ran = ran

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.append(str(func))
        return func(*args, **(kwargs or {}))
