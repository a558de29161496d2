"""Costs: the stock models as Ultralytics counts them, swapped ones as they are."""

import pytest
import thop
import torch
from ultralytics.utils.torch_utils import get_flops

from nas.errors import BuildError
from nas.model.cost import costed, model_cost
from nas.model.host import build
from nas.model.render import render
from nas.space.variant import Variant, parse_swaps

SWAPS = [
    ["neck.up_*=CARAFE"],
    ["neck.up_*=DySample", "neck.down_*=DCNv4"],
    ["backbone.down_p3=DynamicConv", "neck.c2f_*=C2f_DynamicConv"],
    ["neck.c2f_*=C2f_SPConv", "backbone.c2f_p4=C2f_DCNv4"],
]


SWAPS.append(["neck.down_n5=OREPA", "backbone.down_p3=RepVGG", "neck.c2f_*=C2f_DCNv3", "backbone.c2f_p3=C2f_OREPA"])


@pytest.mark.parametrize("scale", ["n", "s", "m"])
def test_stock_models_cost_what_ultralytics_says(scale):
    from ultralytics.nn.tasks import DetectionModel

    cost = costed(Variant("yolov8", scale))[1]
    assert cost.gflops == cost.stock_gflops == get_flops(DetectionModel(f"yolov8{scale}.yaml", verbose=False))
    published = {"n": 8.7, "s": 28.6, "m": 78.9}[scale]
    assert cost.gflops == pytest.approx(published, rel=0.03)  # older counters left out a few operations
    assert cost.params == {"n": 3_157_200, "s": 11_166_560, "m": 25_902_640}[scale]


@pytest.mark.parametrize("swaps", SWAPS, ids=lambda s: s[0])
def test_the_hosts_own_summary_says_the_same(swaps):
    variant = parse_swaps("yolov8", "n", swaps)
    model = build(render(variant).yaml, "n")
    assert model_cost(model).gflops == pytest.approx(get_flops(model), rel=1e-9)


def test_maps_of_half_the_smallest_resolution_are_counted_as_they_are():
    """P5 is one pixel high on the images that the host's counter looks at, and cannot be halved there."""
    cost, stock = (costed(parse_swaps("yolov8", "n", s))[1].gflops for s in (["backbone.c2f_p5=C2f_OctConv"], []))
    # Two convolutions 3x3 of 128 channels on 20 x 20, of which each half at half the resolution saves 3/8.
    convolutions, norm = 2 * 9 * 128**2 * 400 * 3 / 8, 4 * 64 * 400 * 3 / 4
    assert stock - cost == pytest.approx(2 * (convolutions + norm) / 1e9, rel=1e-6)


@pytest.mark.parametrize("swaps", SWAPS, ids=lambda s: s[0])
def test_small_inputs_tell_the_whole(swaps):
    """The counter extrapolates from small images; here it is held against the full size."""
    model = build(render(parse_swaps("yolov8", "n", swaps)).yaml, "n")
    direct = 2 * thop.profile(model, inputs=[torch.empty(1, 3, 640, 640)], verbose=False)[0] / 1e9
    assert model_cost(model).gflops == pytest.approx(direct, rel=1e-3)


def test_what_the_stock_counter_misses():
    cost = costed(parse_swaps("yolov8", "n", ["backbone.down_*=DynamicConv", "neck.down_*=DynamicConv"]))[1]
    assert cost.stock_gflops < 0.9 * cost.gflops


def test_what_nobody_counts_is_listed():
    baseline = costed(Variant("yolov8", "n"))[1]
    listed = dict(baseline.uncounted)
    assert listed["silu"] == 13_888_000  # one for each output of a convolution but the head's last ones
    assert not any("convolution" in name or "batch_norm" in name for name in listed)
    assert all(count > 0 for count in listed.values())


def test_files_carry_the_cost():
    files, cost = costed(Variant("yolov8", "n"))
    assert f"n: [0.33, 0.25, 1024] # YOLOv8n summary: {cost.params} parameters, {cost.gflops:.1f} GFLOPs" in files.yaml


def test_a_counter_that_fails_is_an_error_and_not_a_zero(monkeypatch):
    model = build(render(Variant("yolov8", "n")).yaml, "n")

    def fails(*_args, **_kwargs):
        raise ValueError("no rule")

    monkeypatch.setattr(thop, "profile", fails)
    assert get_flops(model) == 0.0
    with pytest.raises(BuildError, match="cannot be costed: ValueError: no rule"):
        model_cost(model)
    monkeypatch.setattr(thop, "profile", lambda *_a, **_k: (0, 0))
    with pytest.raises(BuildError, match="found no operations"):
        model_cost(model)
