"""Proving spaces: the ones that ship, whole; one with an insertion; and ones that cannot work."""

from __future__ import annotations

from importlib import resources

import pytest
import torch
from stock import tensor_count
from torch import nn

from nas.errors import HeadError, SpaceError
from nas.model import host
from nas.model.check_space import check_space
from nas.model.cost import costed, gflops_and_params
from nas.model.render import render
from nas.model.transfer import copy_matching, named_state
from nas.ops import registry
from nas.space.bases import load_base
from nas.space.space_file import load_space, read_space, shipped_spaces
from nas.space.variant import Variant, make_variant


class Gate(nn.Module):
    """An attention for these tests: one learned scale, at one."""

    def __init__(self, c: int, power: int = 1) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, c, 1, 1))
        self.power = power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain**self.power


class Shrinks(nn.Module):
    """Keeps its promise on channels, not on sizes."""

    def __init__(self, c: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., 1:, :] if x.shape[-2] != x.shape[-1] else x


@pytest.fixture
def attention(monkeypatch):
    """Register both for one test, and take them out of the host again."""
    from ultralytics.nn import tasks

    monkeypatch.setattr(registry, "_ENTRIES", registry.entries())
    power = registry.Arg("power", 1, "", low=1, high=3)
    registry.register(rule="same", kinds={"attention"}, paper="", summary="", params=(power,))(Gate)
    registry.register(rule="same", kinds={"attention"}, paper="", summary="")(Shrinks)
    host.register()
    yield
    monkeypatch.undo()
    for name in ("Gate", "Shrinks"):
        delattr(tasks, name)
    host.register()


@pytest.mark.parametrize("base", ["yolov8-seg", "yolov8-pose", "yolov8-obb"])
def test_a_space_of_detection_works_with_a_base_of_another_task(base):
    text = (resources.files("nas.studies.spaces") / "quick.yaml").read_text(encoding="utf-8")
    space = read_space(text.replace("base: yolov8", f"base: {base}"), "quick.yaml", "quick")
    assert check_space(space) == check_space(load_space("quick"))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["yolov8-seg", "yolov8-pose", "yolov8-obb", "yolov8-cls", "yolov8-rtdetr"])
@pytest.mark.parametrize("name", ["seeds", "slim"])
def test_the_whole_of_a_space_with_a_base_of_another_task(base, name):
    text = (resources.files("nas.studies.spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    space = read_space(text.replace("base: yolov8", f"base: {base}"), f"{name}.yaml", name)
    assert check_space(space) == sum((len(slot.choices) - 1) * len(slot.layers) for slot in space.slots)
    lacking = {("seeds", "yolov8-cls"): 3, ("slim", "yolov8-cls"): 3}
    assert len(space.left_out) == (name == "slim") + lacking.get((name, base), 0)


def test_a_space_of_classification():
    text = (
        "base: yolov8-cls\nscale: n\nslots:\n  backbone.c2f_p*: [C2f_SPConv]\n  backbone.down_p[45]: [SPConv, DCNv4]\n"
    )
    assert check_space(read_space(text, "cls.yaml", "cls")) == 8
    with pytest.raises(SpaceError, match="Classify cannot be swapped"):
        read_space(text + "  head.classify: [SharedDetect]\n", "cls.yaml", "cls")


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["n", "s", "m", "l", "x"])
def test_every_choice_of_seeds_at_every_scale(scale):
    space = load_space("seeds").enable(("*",))
    expected = sum(len(s.choices) - 1 for s in space.slots)
    assert expected == 51
    assert check_space(space, (scale,)) == expected


def test_what_ships_is_sound():
    for name in shipped_spaces():
        if name != "seeds":
            assert check_space(load_space(name)) > 0


def test_an_insertion_from_space_to_tensors(attention):
    text = "slots: {after neck.c2f_p3: [none, {Gate: {power: [1, 2]}}], backbone.down_p4: [SPConv]}"
    space = read_space(text, "s.yaml", "s")
    assert space.slots[0].choices == ("none", "Gate", "Gate(power=2)")
    assert check_space(space) == 3
    variant = space.variant({"after neck.c2f_p3": "Gate(power=2)", "backbone.down_p4": "SPConv"})
    assert variant.describe() == "after neck.c2f_p3=Gate(power=2)  backbone.down_p4=SPConv"
    assert "[-1, 1, Gate, [2]] # 16 neck.c2f_p3+Gate (swapped: Gate(power=2))" in render(variant).yaml
    assert "[[16, 19, 22], 1, Detect, [nc]] # 23 head.detect" in render(variant).yaml

    baseline = host.build(render(Variant("yolov8", "n")).yaml, "n")
    only = make_variant("yolov8", "n", {"after neck.c2f_p3": "Gate"})
    model = host.build(render(only).yaml, "n")
    named = named_state(baseline.state_dict(), load_base("yolov8"))
    assert copy_matching(model, only.graph(), named) == (tensor_count(), tensor_count() + 1)
    image = torch.rand(1, 3, 64, 96)
    assert torch.allclose(model(image)[0], baseline(image)[0], atol=1e-4)


def test_what_cannot_be_inserted(attention):
    for slot, message in (("after head.detect", "nothing can be inserted after a head"), ("after neck.c2f_*", "")):
        if message:
            with pytest.raises(SpaceError, match=message):
                read_space(f"slots: {{{slot}: [Gate]}}", "s.yaml", "s")
        else:
            assert len(read_space(f"slots: {{{slot}: [Gate]}}", "s.yaml", "s").slots) == 4


def test_a_choice_that_does_not_keep_the_shape_is_named(attention):
    space = read_space("slots: {after neck.c2f_p3: [Shrinks, Gate], neck.up_p4: [CARAFE]}", "s.yaml", "s")
    with pytest.raises(SpaceError) as caught:
        check_space(space)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("after neck.c2f_p3=Shrinks at scale n: ")


def test_what_a_module_cannot_be_names_slot_module_and_argument():
    text = """
slots:
  backbone.stem_p1: [HetConv]
  after backbone.c2f_p2: [{ACmix: {head: 5}}, {AIFIInsert: {num_heads: 7}}]
"""
    with pytest.raises(SpaceError) as caught:
        check_space(read_space(text, "s.yaml", "s"), ("n",))
    slots = {line.partition(" at scale n: cannot be built: ")[::2] for line in str(caught.value).splitlines()}
    heads = "channels, num_heads=7: expected channels that 4 and the heads divide"
    assert slots == {
        ("after backbone.c2f_p2=ACmix(head=5)", "ACmix: 32 channels, head=5: expected heads that divide the channels"),
        ("after backbone.c2f_p2=AIFIInsert(num_heads=7)", f"AIFIInsert: 32 {heads}"),
        ("backbone.stem_p1=HetConv", "HetConv: 3 to 16 channels, p=4: expected a common divisor from 2 to p"),
    }


def test_a_class_with_which_the_host_builds_another_head_is_refused():
    space = read_space("slots:\n  neck.c2f_n5: [keep, host:C3k2, C3k2Block]\n", "s.yaml", "s")
    with pytest.raises(SpaceError) as caught:
        check_space(space)
    assert str(caught.value) == (
        "neck.c2f_n5=host:C3k2 at scale n: cannot be compared: with it Ultralytics builds another Detect, which no "
        "trained weights fit"
    )
    assert check_space(read_space("base: yolo11\nslots:\n  neck.c3k2_n5: [keep, host:C2f]\n", "s.yaml", "s")) == 1


def test_a_variant_of_yolo11_that_loses_its_head_is_refused_and_its_choices_are_not():
    layers = [layer.name for layer in load_base("yolo11").layers if layer.module == "C3k2"]
    space = read_space(
        "base: yolo11\nslots:\n" + "".join(f"  {n}: [keep, C2f, GELAN]\n" for n in layers), "s.yaml", "s"
    )
    assert check_space(space) == 2 * len(layers) == 16
    alike = make_variant("yolo11", "n", dict.fromkeys(layers, "C2f"))
    for cost in (costed, gflops_and_params):
        with pytest.raises(
            HeadError, match="builds the Detect of YOLOv8 where no C3k2, no A2C2f and no module that nas"
        ):
            cost(alike)
    assert host.build(render(alike).yaml, "n"), "as Ultralytics builds it"
    kept = make_variant("yolo11", "n", dict.fromkeys(layers[1:], "C2f"))
    mixed = make_variant("yolo11", "n", {**dict.fromkeys(layers[1:], "C2f"), layers[0]: "GELAN"})
    assert all(costed(variant)[1].gflops > 4 for variant in (kept, mixed))
    heads = [host.build(render(variant).yaml, "n").model[-1] for variant in (kept, mixed)]
    assert [type(head.cv3[0][0]).__name__ for head in heads] == ["Sequential", "Sequential"]


def test_an_inserted_class_of_the_host_that_needs_arguments_says_so():
    text = "slots:\n  after backbone.sppf: [none, host:SPPF]\n"
    with pytest.raises(SpaceError, match=r"index out of range: SPPF without arguments; most classes take their output"):
        check_space(read_space(text, "s.yaml", "s"))
    assert check_space(read_space(text.replace("host:SPPF", '{"host:SPPF": [1024, 5]}'), "s.yaml", "s")) == 1


@pytest.mark.parametrize(
    ("slot", "choice", "said"),
    [
        ("neck.up_p4", "{CARAFE: {k_up: 4}}", "CARAFE: k_up=4: expected an odd whole number from 1 to 11"),
        ("neck.up_p4", "{CARAFE: {k_up: '5'}}", "CARAFE: k_up='5': expected an odd whole number from 1 to 11"),
        ("backbone.down_p3", "{SPConv: {ratio: 2}}", "SPConv: ratio=2: expected a number from 0.05 to 0.95"),
        ("backbone.down_p3", "{DCNv4: {remove_center: 1}}", "DCNv4: remove_center=1: expected true or false"),
        ("backbone.down_p3", "FADE", "FADE fits slots of kind up, this one is down; what fits: AKConv"),
        ("after backbone.sppf", "{LSKA: {k_size: 9}}", "LSKA: k_size=9: expected one of 7, 11, 23, 35, 41, 53"),
        ("after backbone.sppf", "FADE", "FADE cannot be inserted: it takes two inputs, and fits slots of kind up"),
        ("after backbone.sppf", "SPPF", "a layer that it replaces, of kind pool; what fits: ACmix, SE"),
        ("neck.cat_p4", "FADE", "Concat cannot be swapped; what can: backbone.stem_p1, backbone.down_p2"),
        ("neck.up_p4", "PConvv", "unknown module 'PConvv'; did you mean PConv or SPConv or Conv"),
    ],
)
def test_a_bad_choice_is_one_line_that_says_what_would_do(slot, choice, said):
    """And not a second one, that nothing is left to choose."""
    with pytest.raises(SpaceError) as caught:
        read_space(f"slots:\n  {slot}: [{choice}]\n", "s.yaml", "s")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"s.yaml:2: {slot}: ")
    assert said in line
