"""Layers with a share of their output channels: labels, rows, and which readers can do with fewer."""

from __future__ import annotations

import pytest

from nas.errors import SpaceError
from nas.model.render import render
from nas.solver.facts import all_swaps
from nas.solver.program import Program, solve
from nas.space.bases import load_base
from nas.space.choice import parse_choice
from nas.space.import_yaml import variant_of_yaml
from nas.space.model_yaml import parse_model_yaml
from nas.space.sampling import representatives
from nas.space.space_file import load_space, read_space
from nas.space.variant import make_variant


def test_a_label_has_one_form():
    assert [parse_choice(text).label for text in ("Narrow(0.75)", " Narrow( .750 )")] == ["Narrow(0.75)"] * 2
    assert parse_choice("Narrow(0.5)").share == 0.5
    assert parse_choice("C2f(e=0.25)").share is None


@pytest.mark.parametrize("inner", ["", "(1)", "(0)", "(.0)", "(share=0.5)", "(-0.5)"])
def test_a_share_is_below_one(inner):
    with pytest.raises(SpaceError, match=r"expected a share of the layer's output channels below 1, as Narrow\(0.75\)"):
        parse_choice(f"Narrow{inner}")


def test_the_row_has_the_channels_and_its_readers_follow():
    variant = make_variant("yolov8", "n", {"backbone.c2f_p3": "Narrow(0.75)"})
    graph = variant.graph()
    assert graph["backbone.c2f_p3"].args == (192, True)
    assert graph.channels("backbone.c2f_p3", "n") == 48
    assert [x.name for x in graph.readers("backbone.c2f_p3")] == ["backbone.down_p4", "neck.c2f_p3"]
    assert graph.inputs("neck.c2f_p3") == ("neck.c2f_p4", "backbone.c2f_p3")
    assert "[-1, 6, C2f, [192, True]] # 4 backbone.c2f_p3 (swapped: Narrow(0.75))" in render(variant).yaml
    assert (variant.narrowed, variant.wide.is_baseline, variant.modules) == (("backbone.c2f_p3",), True, ())


@pytest.mark.parametrize("scale", ["n", "s", "m", "l", "x"])
def test_channels_are_a_share_of_the_scales_own(scale):
    """Where a scale has a limit of channels, the share is of what is left."""
    for name in ("backbone.down_p5", "backbone.sppf", "neck.c2f_p4"):
        before = load_base("yolov8").channels(name, scale)
        variant = make_variant("yolov8", scale, {name: "Narrow(0.75)"})
        assert variant.graph().channels(name, scale) == pytest.approx(0.75 * before, abs=4)
        found = variant_of_yaml(parse_model_yaml(render(variant).yaml, f"{variant.name}.yaml"))
        assert found.variant == variant


def test_channels_are_never_as_many_as_the_classes():
    """``parse_model`` takes a row with as many channels as classes for a head, and does not scale it."""
    variant = make_variant("yolov8", "s", {"backbone.down_p2": "Narrow(0.625)"})
    assert variant.graph()["backbone.down_p2"].args[0] == 79
    assert variant.graph().channels("backbone.down_p2", "s") == 40


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        ("neck.c2f_p3", "head.detect takes them, and is Detect; input channels can be fewer in Conv, C2f"),
        ("backbone.c2f_p5", "backbone.sppf takes them, and is SPPF"),
        ("neck.up_p4", "Narrow fits Conv, C2f, SPPF, this layer is nn.Upsample"),
        ("after backbone.sppf", "Narrow cannot be inserted"),
        ("head.detect", "Narrow fits Conv, C2f, SPPF, this layer is Detect"),
    ],
)
def test_what_cannot_be_narrower(slot, said):
    with pytest.raises(SpaceError) as caught:
        read_space(f"slots: {{{slot}: [Narrow(0.5)]}}", "s.yaml", "s")
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_a_share_that_changes_nothing_is_named():
    with pytest.raises(SpaceError, match=r"Narrow\(0.9\) leaves all of its 16 channels, in multiples of 8: use `keep`"):
        read_space("slots: {backbone.stem_p1: [Narrow(0.9)]}", "s.yaml", "s")


SPACE = """
slots:
  backbone.c2f_p3: [Narrow(0.5), Conv]
  backbone.down_p4: [HWD, SCDown]
  neck.up_p3: [CARAFE]
  after backbone.c2f_p3: [SE]
"""


def test_choices_that_do_not_go_together_are_forbidden():
    space = read_space(SPACE, "s.yaml", "s")
    assert set(space.forbid) == {
        (("backbone.c2f_p3", "Narrow(*)"), ("backbone.down_p4", "HWD")),
        (("backbone.c2f_p3", "Narrow(*)"), ("after backbone.c2f_p3", "SE")),
    }
    for assignment in space.assignments():
        space.variant(assignment)  # everything that is allowed fits
    forbidden = space.baseline() | {"backbone.c2f_p3": "Narrow(0.5)", "backbone.down_p4": "HWD"}
    assert space.forbids(forbidden)
    with pytest.raises(SpaceError, match=r"backbone.down_p4 takes them, and is HWD"):
        space.variant(forbidden)


def test_no_sample_has_them_together():
    space = read_space(SPACE, "s.yaml", "s")
    allowed = {space.variant(assignment).id for assignment in space.assignments()}
    assert {variant.id for variant in representatives(space, len(allowed) - 1)} < allowed


def test_the_solver_keeps_them_apart():
    space = read_space(SPACE, "s.yaml", "s")
    values = dict.fromkeys(all_swaps(space), 1.0)
    found = solve(Program(space, values))
    assert found is not None
    assert not space.forbids(found)
    assert found["backbone.c2f_p3"] == "Conv", "two of the others are worth more than a narrow layer"


def test_the_space_that_ships():
    space = load_space("slim-stages")
    slim = {slot.key: slot for slot in load_space("slim").slots}
    for slot in space.slots:
        assert set(slim.get(slot.key, slot).choices) <= set(slot.choices), "all of `slim`"
    assert sum(any("Narrow" in label for label in slot.choices) for slot in space.slots) == 11
