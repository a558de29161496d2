"""Ids of variants, and swaps that do not fit."""

import pytest

from nas.errors import SpaceError
from nas.space.variant import Variant, make_variant, parse_swaps


def test_id_is_the_hash_of_the_canonical_text():
    variant = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE", "neck.up_p3=DySample"])
    assert variant.canonical == "neck.up_p3=DySample\nneck.up_p4=CARAFE\nbase=yolov8\nscale=n"
    # the same on every machine and in every release: files of users carry it
    assert variant.name == "yolov8n-4aa6d165"


def test_id_does_not_depend_on_how_the_swaps_were_said():
    singly = parse_swaps("yolov8", "n", ["neck.up_p3=CARAFE", "neck.up_p4=CARAFE"])
    glob = parse_swaps("yolov8", "n", ["neck.up_*=CARAFE(k_up=5)"])
    kept = make_variant("yolov8", "n", {"neck.up_p3": "CARAFE", "neck.up_p4": "CARAFE", "neck.down_n4": "keep"})
    assert singly == glob == kept
    assert singly.id == glob.id


def test_scale_changes_the_id():
    variant = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE"])
    assert variant.with_scale("s").id != variant.id
    with pytest.raises(SpaceError, match="no scale 'q'; its scales: n, s, m, l, x"):
        variant.with_scale("q")


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        ("neck.up_p4", "cannot read the swap 'neck.up_p4'"),
        ("neck.up_p4=", "cannot read the swap"),
        ("neck.up_p9=CARAFE", "no layer 'neck.up_p9'; did you mean neck.up_p4"),
        ("neck.zz_*=CARAFE", "matches no layer of yolov8"),
        ("neck.c2f_p4=CARAFE", "neck.c2f_p4: CARAFE fits slots of kind up, this one is block; what fits: C2f_"),
        ("neck.cat_p4=CARAFE", "Concat cannot be swapped"),
        ("after neck.c2f_p4=CARAFE", "CARAFE cannot be inserted"),
    ],
)
def test_bad_swaps(swap, message):
    with pytest.raises(SpaceError, match=message):
        parse_swaps("yolov8", "n", [swap])


def test_a_later_swap_wins():
    variant = parse_swaps("yolov8", "n", ["neck.up_*=CARAFE", "neck.up_p3=keep"])
    assert variant.swaps == (("neck.up_p4", "CARAFE"),)


def test_describe():
    assert Variant("yolov8", "n").describe() == "baseline"
    variant = parse_swaps("yolov8", "n", ["neck.up_*=CARAFE", "backbone.down_p3=SPConv"])
    assert variant.describe() == "backbone.down_p3=SPConv  neck.{up_p3,up_p4}=CARAFE"
