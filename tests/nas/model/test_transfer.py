"""Tensors by layer name: named, numbered and copied; swapped layers start near what they replace."""

from __future__ import annotations

import pytest
import torch
from stock import tensor_count
from torch import nn

from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import copy_matching, named_state, numbered_state, warm_start_layer, warm_start_swaps
from nas.space.bases import load_base
from nas.space.variant import Variant, make_variant, parse_swaps


def test_names_survive_an_insertion():
    base = load_base("yolov8")
    state = named_state(build(render(Variant("yolov8", "n")).yaml, "n").state_dict(), base)
    inserted = base.insert("backbone.c2f_p3", "nn.Identity", (), "nn.Identity")
    numbered = numbered_state(state, inserted)
    assert len(numbered) == tensor_count()
    assert torch.equal(numbered["model.6.conv.weight"], state["backbone.down_p4:conv.weight"])


def test_copying_counts_what_fits():
    base = build(render(Variant("yolov8", "n")).yaml, "n")
    state = named_state(base.state_dict(), load_base("yolov8"))
    variant = make_variant("yolov8", "n", {"neck.up_p4": "CARAFE"})
    model = build(render(variant).yaml, "n")
    shared, own = copy_matching(model, variant.graph(), state)
    assert shared == tensor_count()
    assert own > tensor_count()
    for key, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_an_inserted_module_starts_near_the_identity():
    baseline = build(render(make_variant("yolov8", "n", {})).yaml, "n")
    variant = parse_swaps("yolov8", "n", ["after neck.c2f_p3=LSKA", "after neck.c2f_n4=SE"])
    model, graph = build(render(variant).yaml, "n"), variant.graph()
    copy_matching(model, graph, named_state(baseline.state_dict(), load_base("yolov8")))
    image = torch.rand(1, 3, 64, 96)
    fresh = (model(image)[0] - baseline(image)[0]).abs().max()
    warm_start_swaps(model, graph, baseline, {})
    places = dict(zip(graph.names, model.model, strict=True))
    assert torch.equal(places["neck.c2f_p3+LSKA"].conv1.bias, torch.ones(64))
    assert places["neck.c2f_n4+SE"].residual_scale.item() == pytest.approx(0.1)
    assert (model(image)[0] - baseline(image)[0]).abs().max() < fresh / 2


def test_given_tensors_come_before_a_warm_start():
    variant = parse_swaps("yolov8", "n", ["after neck.c2f_p3=SE"])
    model, graph = build(render(variant).yaml, "n"), variant.graph()
    place = graph.names.index("neck.c2f_p3+SE")
    given = {f"neck.c2f_p3+SE:{key}": None for key in model.model[place].state_dict()}
    warm_start_swaps(model, graph, model, given)
    assert model.model[place].residual_scale.item() == 1


def test_a_module_without_a_registered_start():
    assert warm_start_layer(nn.Conv2d(4, 4, 1), None) is False
