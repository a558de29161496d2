"""Which variants stand for a space: its kinds first, always the same ones, none that is forbidden."""

from __future__ import annotations

import pytest

from nas.errors import SpaceError
from nas.space.choice import parse_choice
from nas.space.sampling import representatives
from nas.space.space_file import load_space, read_space

SMALL = "slots: {neck.up_p4: [CARAFE, DySample], neck.up_p3: [CARAFE, DySample]}"


def small(extra: str = ""):
    return read_space(f"{SMALL}\n{extra}", "s.yaml", "s")


def test_each_module_comes_first_everywhere_it_fits():
    space = load_space("seeds")
    found = representatives(space, 12)
    modules = ("CARAFE", "DySample", "SPConv", "DynamicConv", "DCNv4", "C2f_SPConv", "C2f_DynamicConv", "C2f_DCNv4")
    for name, variant in zip(modules, found, strict=False):
        assert variant.modules == (name,)
        fitting = {
            layer
            for slot in space.active
            for layer in slot.layers
            if any(parse_choice(label).module == name for label in slot.choices[1:])
        }
        assert {slot for slot, _ in variant.swaps} == fitting
    for variant in found[len(modules) :]:
        assert len(variant.modules) > 1


def test_a_label_with_arguments_stands_for_its_module():
    space = read_space("slots: {neck.up_p4: [{DySample: {style: [lp, pl]}}]}", "s.yaml", "s")
    assert [v.describe() for v in representatives(space, 1)] == ["neck.up_p4=DySample"]


@pytest.mark.parametrize("name", ["seeds", "quick"])
def test_a_greater_count_extends_the_list(name):
    space = load_space(name)
    ids = [v.id for v in representatives(space, 14)]
    assert len(set(ids)) == 14
    for count in (1, 3, 6, 9, 14):
        assert [v.id for v in representatives(space, count)] == ids[:count]


def test_none_is_the_baseline_and_none_is_there_twice():
    found = representatives(small(), 8)
    assert len({v.id for v in found}) == 8
    assert not any(v.is_baseline for v in found)


def test_what_is_forbidden_is_left_out():
    space = small("forbid:\n  - {neck.up_p4: CARAFE, neck.up_p3: CARAFE}\n  - {neck.up_p4: DySample, neck.up_p3: keep}")
    found = [v.describe() for v in representatives(space, 6)]
    assert found[0] == "neck.{up_p3,up_p4}=DySample"
    assert "neck.{up_p3,up_p4}=CARAFE" not in found
    assert "neck.up_p4=DySample" not in found
    assert len(set(found)) == 6
    with pytest.raises(SpaceError, match="s has only 6 variants besides the baseline, not 7"):
        representatives(space, 7)


def test_more_than_there_are():
    with pytest.raises(SpaceError, match="s has only 8 variants besides the baseline, not 9"):
        representatives(small(), 9)


def test_slots_that_are_off_stay_as_they_are():
    space = read_space(
        SMALL.replace("slots: {", "slots: {neck.down_n4: {choices: [SPConv], enabled: false}, "), "s", "s"
    )
    assert not any("neck.down_n4" in dict(v.swaps) for v in representatives(space, 8))
    assert any("neck.down_n4" in dict(v.swaps) for v in representatives(space.enable(("neck.down_n4",)), 8))
