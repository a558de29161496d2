"""The width of a yardstick: as wide as its budget allows, by real counts, and the same text everywhere."""

from __future__ import annotations

import pytest

from nas.errors import SpaceError
from nas.model.render import render
from nas.space.variant import MODEL, Variant, make_variant, make_yardstick, parse_swaps
from nas.yardstick.width import check_prunable, cost_of, widest_within

BASE = Variant("yolov8", "n")


@pytest.fixture(scope="module")
def own() -> float:
    return cost_of(BASE).gflops


@pytest.mark.parametrize("less", [0.1, 0.2, 0.3, 0.4])
def test_it_is_the_widest_within_the_budget_and_near_it(own, less):
    found = widest_within("yolov8", "n", own * (1 - less))
    assert own * (1 - less) * 0.985 < cost_of(found).gflops <= own * (1 - less)
    wider = make_yardstick("yolov8", "n", found.width + 0.0001)
    assert cost_of(wider).gflops > own * (1 - less)


def test_rows_have_their_share_of_channels_in_multiples_of_8():
    base, graph = BASE.graph(), make_yardstick("yolov8", "n", 0.2).graph()
    for stock, layer in zip(base.layers, graph.layers, strict=True):
        if stock.module in ("Conv", "C2f", "SPPF"):
            assert layer.args[0] % 8 == 0
            assert abs(layer.args[0] - 0.2 * stock.args[0]) < 8
            assert layer.args[1:] == stock.args[1:]
        else:
            assert layer == stock


def test_at_its_own_width_it_is_the_stock_model():
    assert cost_of(make_yardstick("yolov8", "n", 0.25)).gflops == cost_of(BASE).gflops
    assert cost_of(make_yardstick("yolov8", "n", 9.0)).gflops == cost_of(BASE).gflops


def test_its_text_says_its_scale_alone_and_is_the_same_each_time():
    variant = make_yardstick("yolov8", "s", 0.4)
    text = render(variant).yaml
    assert render(parse_swaps("yolov8", "s", ["model=Width(0.4000)"])).yaml == text
    assert "  s: [0.33, 1.00, 1024]" in text
    assert "  n:" not in text
    assert "every layer at width 0.4" in text.splitlines()[0]
    assert variant.name == f"yolov8s-{variant.id}"
    assert not variant.is_baseline
    assert variant.modules == ()


def test_what_is_no_yardstick_is_refused(own):
    with pytest.raises(SpaceError, match=r"expected a width multiple, such as model=Width\(0.2031\)"):
        make_variant("yolov8", "n", {MODEL: "CARAFE"})
    with pytest.raises(SpaceError, match="goes with no other swap"):
        make_variant("yolov8", "n", {MODEL: "Width(0.2)", "neck.up_p4": "CARAFE"})
    with pytest.raises(SpaceError, match="it has no other scale"):
        make_yardstick("yolov8", "n", 0.2).with_scale("s")
    with pytest.raises(SpaceError, match=r"would not be smaller than yolov8n, of \d"):
        widest_within("yolov8", "n", own)
    with pytest.raises(SpaceError, match=r"no width of yolov8n has at most 0\.50 GFLOPs: the narrowest has \d"):
        widest_within("yolov8", "n", 0.5)


def test_bases_that_cannot_be_pruned_say_why():
    with pytest.raises(SpaceError, match="yolo11 has no yardstick: C2PSA, C3k2 cannot be pruned"):
        check_prunable("yolo11", "n")
    with pytest.raises(SpaceError, match="has one size and no width multiple"):
        check_prunable("yolov9c", "")
    check_prunable("yolov5", "s")
    check_prunable("yolov8-p2", "n")


def test_the_prototypes_of_masks_are_narrower_too():
    check_prunable("yolov8-pose", "n")
    check_prunable("yolov8-obb", "n")
    check_prunable("yolov8-seg", "s")
    narrow = make_yardstick("yolov8-seg", "s", 0.4)
    assert narrow.graph().layers[-1].args == ("nc", 32, 104)  # 0.4 of 256, a multiple of 8
    assert cost_of(make_yardstick("yolov8-seg", "s", 0.5)).gflops == cost_of(Variant("yolov8-seg", "s")).gflops
