"""Tensors by layer name: named, numbered and copied; swapped layers start near what they replace."""

from __future__ import annotations

import pytest
import torch
from stock import tensor_count
from torch import nn

from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import (
    copy_matching,
    named_state,
    narrow_tensors,
    numbered_state,
    warm_start_layer,
    warm_start_swaps,
)
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
    given = {f"neck.c2f_p3+SE:{key}": value for key, value in model.model[place].state_dict().items()}
    warm_start_swaps(model, graph, model, given)
    assert model.model[place].residual_scale.item() == 1


def test_a_module_without_a_registered_start():
    assert warm_start_layer(nn.Conv2d(4, 4, 1), None) is False


def seen_baseline() -> nn.Module:
    """Return a baseline whose norms have seen images, so that every layer hands on what differs between them."""
    torch.manual_seed(0)
    model = build(render(Variant("yolov8", "n")).yaml, "n", 3).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(8):
            model(torch.rand(4, 3, 96, 96))
    return model.eval()


def output_of(model: nn.Module, layer: str) -> torch.Tensor:
    """Return the map of a layer of a YOLOv8 for an image: predictions of a head without training show nothing."""
    found: list[torch.Tensor] = []
    torch.manual_seed(2)
    row = model.model[load_base("yolov8").names.index(layer)]
    hook = row.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 96))
    hook.remove()
    return found[0]


def without_half(conv: nn.Conv2d, first: int, count: int) -> None:
    """Let a convolution ignore every second of some channels of its input."""
    conv.weight.data[:, first + 1 : first + count : 2] = 0


def test_readers_of_narrow_layers_compute_what_they_did():
    """Behind a convolution, upsampled and not, first and last of a Concat; exactly, where half of a map is not read.

    A narrow layer may be the reader of another one.
    """
    baseline = seen_baseline()
    rows = dict(zip(load_base("yolov8").names, baseline.model, strict=True))
    without_half(rows["backbone.down_p2"].conv, 0, 16)
    without_half(rows["backbone.c2f_p2"].cv1.conv, 0, 32)
    without_half(rows["backbone.c2f_p4"].cv1.conv, 0, 128)
    without_half(rows["neck.c2f_p4"].cv1.conv, 0, 256)
    without_half(rows["neck.c2f_n5"].cv1.conv, 128, 256)
    narrow = ("backbone.stem_p1", "backbone.down_p2", "backbone.down_p4", "backbone.sppf")
    variant = parse_swaps("yolov8", "n", [f"{name}=Narrow(0.5)" for name in narrow])
    model = build(render(variant).yaml, "n", 3).eval()
    state = named_state(baseline.state_dict(), load_base("yolov8"))
    copy_matching(model, variant.graph(), state)
    expected = output_of(baseline, "neck.c2f_n5")
    assert not torch.allclose(output_of(model, "neck.c2f_n5"), expected, atol=0.05)
    copy_matching(model, variant.graph(), narrow_tensors(variant, model, baseline, state, 3))
    assert torch.allclose(output_of(model, "neck.c2f_n5"), expected, atol=1e-3)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in baseline.parameters())


def test_a_swapped_reader_takes_a_narrow_map_as_its_wide_one():
    """What a bank holds of it was distilled from the wide map."""
    baseline, base = seen_baseline(), load_base("yolov8")
    variant = parse_swaps("yolov8", "n", ["backbone.c2f_p4=C2f(e=0.25)", "backbone.down_p4=Narrow(0.5)"])
    wide = build(render(variant.wide).yaml, "n", 3).eval()
    place = base.names.index("backbone.c2f_p4")
    for conv in (baseline.model[place].cv1.conv, wide.model[place].cv1.conv):
        without_half(conv, 0, 128)
    copy_matching(wide, variant.wide.graph(), named_state(baseline.state_dict(), base))
    held = named_state(wide.state_dict(), base)
    given = {**named_state(baseline.state_dict(), base), **{k: v for k, v in held.items() if "backbone.c2f_p4:" in k}}
    model = build(render(variant).yaml, "n", 3).eval()
    copy_matching(model, variant.graph(), given)
    expected = output_of(wide, "backbone.c2f_p4")
    assert not torch.allclose(output_of(model, "backbone.c2f_p4"), expected, atol=0.05)
    copy_matching(model, variant.graph(), narrow_tensors(variant, model, baseline, given, 3))
    assert torch.allclose(output_of(model, "backbone.c2f_p4"), expected, atol=1e-3)


def test_a_swapped_reader_is_given_whole():
    """Not only its first convolution: the rest starts as with the wide map."""
    baseline, base = seen_baseline(), load_base("yolov8")
    variant = parse_swaps("yolov8", "n", ["backbone.c2f_p4=C2f(e=0.25)", "backbone.down_p4=Narrow(0.5)"])
    model, given = build(render(variant).yaml, "n", 3).eval(), named_state(baseline.state_dict(), base)
    found = narrow_tensors(variant, model, baseline, given, 3)
    own = named_state(model.state_dict(), variant.graph())
    changed = {key for key in own if key.startswith(("backbone.down_p4:", "backbone.c2f_p4:"))}
    assert changed == {key for key in found if ":wide." not in key}
    assert all(found[key].shape == own[key].shape for key in changed)


def test_a_narrower_block_of_the_same_class_is_started_too():
    """Its tensors have the names of the trained layer's, and other shapes."""
    baseline = seen_baseline()
    variant = make_variant("yolov8", "n", {"neck.c2f_p3": "C2f(e=0.25)"})
    model, graph = build(render(variant).yaml, "n", 3).eval(), variant.graph()
    given = named_state(baseline.state_dict(), load_base("yolov8"))
    copy_matching(model, graph, given)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        fresh = (model(image)[0] - baseline(image)[0]).square().mean()
        warm_start_swaps(model, graph, baseline, given)
        assert (model(image)[0] - baseline(image)[0]).square().mean() < fresh
