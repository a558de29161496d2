"""Whole models on a GPU that is not there: the stock one, the five swaps of the README, and some other modules."""

from __future__ import annotations

import pytest
import torch
from fake_cuda import DEVICE, fake_cuda, module_on, step  # noqa: F401  the second is a fixture
from torch._subclasses.fake_tensor import FakeTensorMode

from nas.model.host import build
from nas.model.render import render
from nas.ops.kernels import runtime
from nas.space.variant import parse_swaps

pytestmark = pytest.mark.usefixtures("fake_cuda")

MODELS = {
    "stock": [],
    "five": [
        *("neck.up_p4=CARAFE", "neck.up_p3=DySample", "neck.down_*=SPConv"),
        *("backbone.down_p5=DynamicConv", "neck.c2f_*=C2f_DCNv4"),
    ],
    "guided and deformable": [
        *("neck.up_p4=FADE", "neck.up_p3=SAPA"),
        *("backbone.down_p3=DCNv2", "backbone.down_p4=AKConv", "neck.c2f_p3=C2f_DSConv"),
    ],
    "attention": ["after neck.c2f_p3=ACmix", "after neck.c2f_n4=EMA", "after backbone.c2f_p5=AIFIInsert"],
}
MODES = {
    "training under autocast": (None, torch.float32, torch.float16, True),
    "float16": (torch.float16, torch.float16, None, False),
    "validation under autocast": (None, torch.float32, torch.bfloat16, False),
}
PLAIN = ("training under autocast",)
"""Modes of a model whose kernels are not used."""


@pytest.mark.parametrize("swaps", MODELS.values(), ids=MODELS)
def test_everything_is_on_the_gpu(swaps, monkeypatch):
    """With kernels; and without them, where the model has any."""
    real, asked = build(render(parse_swaps("yolov8", "n", swaps)).yaml, "n", 3), []
    monkeypatch.setattr(runtime, "mode", lambda: asked.append("auto") or "auto")
    run(real, tuple(MODES))
    if asked:
        monkeypatch.setattr(runtime, "mode", lambda: "reference")
        run(real, PLAIN)


def run(real, modes):
    """Run a model in some modes."""
    for name in modes:
        dtype, input_dtype, autocast, train = MODES[name]
        mode = FakeTensorMode(allow_non_fake_inputs=False)
        model = module_on(mode, real, dtype)
        with mode:
            x = torch.empty(2, 3, 64, 64, dtype=input_dtype, device=DEVICE, memory_format=torch.channels_last)
            assert step(model, x, autocast=autocast, train=train) == [], name
