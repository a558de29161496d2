"""The space `slim`: every choice spends less than the layer in whose place it stands, and reaches half of YOLOv8n."""

import pytest

from nas.model.cost import costed
from nas.ops.registry import get
from nas.space.choice import parse_choice
from nas.space.space_file import load_space
from nas.space.variant import make_variant


def gflops(swaps):
    return costed(make_variant("yolov8", "n", swaps))[1].gflops


@pytest.fixture(scope="module")
def costs():
    """Return the GFLOPs of the baseline, and of every single swap by slot."""
    space = load_space("slim")
    singles = {
        slot.layers[0]: {label: gflops({slot.layers[0]: label}) for label in slot.choices[1:]} for slot in space.slots
    }
    return gflops({}), singles


@pytest.mark.slow
def test_every_choice_costs_less_than_what_it_replaces(costs):
    baseline, singles = costs
    assert {f"{slot}={label}": v for slot, own in singles.items() for label, v in own.items() if v >= baseline} == {}


@pytest.mark.slow
def test_it_reaches_less_than_half(costs):
    baseline, singles = costs
    assert baseline == pytest.approx(8.86, abs=0.01)
    cheapest = {slot: min(own, key=own.get) for slot, own in singles.items()}
    assert gflops(cheapest) < 0.4 * baseline


def test_every_kind_of_layer_can_shrink():
    space = load_space("slim")
    assert {space.graph[layer].kind for slot in space.slots for layer in slot.layers} == {
        "down",
        "block",
        "pool",
        "head",
    }
    assert len(space.slots) == 5 + 8 + 1 + 1


def test_most_choices_need_no_registration():
    """Blocks and convolutions of Ultralytics' own: YAMLs that train anywhere."""
    labels = {label for slot in load_space("slim").slots for label in slot.choices[1:]}
    stock = {label for label in labels if (choice := parse_choice(label)).row or get(choice.module).native}
    assert {"C2f(repeats=1)", "C2f(e=0.25)", "Conv", "SCDown", "GhostConv"} < stock
