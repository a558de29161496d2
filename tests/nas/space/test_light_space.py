"""The space `light`: every choice spends less than the layer in whose place it stands."""

import pytest
import thop
import torch

from nas.model.host import build, register
from nas.model.render import render
from nas.ops.registry import get
from nas.space.choice import parse_choice
from nas.space.space_file import load_space
from nas.space.variant import make_variant


def spent(layer, x):
    return thop.profile(layer, inputs=[x], verbose=False)[0]


@pytest.mark.parametrize("scale", ["n", "x"])
def test_every_choice_costs_less_than_what_it_replaces(scale):
    register()  # the rules of cost
    space = load_space("light")
    model = build(render(make_variant("yolov8", scale, {})).yaml, scale)
    shapes = {}
    for name, layer in zip(space.graph.names, model.model, strict=True):
        layer.register_forward_hook(lambda m, inputs, output, name=name: shapes.update({name: inputs}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 128, 128))
    heavier = []
    for slot in space.slots:
        (name,) = slot.layers
        old, x = model.model[space.graph.names.index(name)], torch.zeros(1, shapes[name][0].shape[1], 8, 16)
        allowed = spent(old, x)
        width = old.conv.out_channels if hasattr(old, "conv") else old.cv2.conv.out_channels
        channels = (x.shape[1], width, *([len(old.m)] if hasattr(old, "m") else []))
        for label in slot.choices[1:]:
            entry = get(parse_choice(label).module)
            new = entry.cls(*channels, *entry.row_args(space.graph[name].slot_values, {}))
            if not spent(new, x) < allowed:
                heavier.append(f"{name}={label}")
    assert heavier == []


def test_no_slot_is_left_out():
    kinds = {load_space("light").graph[layer].kind for slot in load_space("light").slots for layer in slot.layers}
    assert kinds == {"down", "block"}
    assert sum(len(slot.choices) - 1 for slot in load_space("light").slots) == 5 * 9 + 8 * 13
