"""Modules that take a second source, are inserted, or are Ultralytics' own: from the slot to the built model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nas.emit.bundle import bundle_files
from nas.errors import OutputError, SpaceError
from nas.model import host
from nas.model.check_space import check_space
from nas.model.cost import model_cost
from nas.model.render import render, render_branch, render_snippet
from nas.space.bases import load_base
from nas.space.choice import misfit, parse_choice
from nas.space.graph import Layer
from nas.space.space_file import read_space
from nas.space.variant import make_variant, parse_swaps

GUIDED = ("FADE", "SAPA")


def rows(variant):
    return {r.layer.name: r.source for r in variant.graph().rows()}


def test_the_guide_is_the_other_source_of_the_concatenation():
    graph = load_base("yolov8")
    assert graph.guide_of("neck.up_p4") == "backbone.c2f_p4"
    assert graph.guide_of("neck.up_p3") == "backbone.c2f_p3"
    assert graph.guide_of("neck.c2f_n5") == "", "what goes nowhere but to the head"
    assert graph.guide_of("backbone.c2f_p4") == "", "the other source comes later"


@pytest.mark.parametrize("name", GUIDED)
def test_a_row_with_two_sources(name):
    variant = parse_swaps("yolov8", "n", [f"neck.up_*={name}"])
    assert rows(variant)["neck.up_p4"] == (-1, 6)
    assert rows(variant)["neck.up_p3"] == (-1, 4)
    model = host.build(render(variant).yaml, "n")
    up = model.model[10]
    assert type(up).__name__ == name
    assert up.f == [-1, 6]
    assert model(torch.rand(1, 3, 64, 96))[0].shape == (1, 84, 126)
    assert "elif m in frozenset({" + name + "}):  # c, c of the guide, ..." in render_snippet(variant)
    stock = model_cost(host.build(render(make_variant("yolov8", "n", {})).yaml, "n"))
    assert model_cost(model).gflops > stock.gflops


@pytest.mark.parametrize(
    ("inserted", "up", "guide"),
    [("after backbone.c2f_p4", (-1, 7), (-1, 7)), ("after neck.up_p4", (-1, 6), (-1, 6))],
)
def test_insertions_before_and_behind_a_guided_layer(inserted, up, guide):
    """Whoever takes a layer's output takes the inserted one's: the guide as well as the concatenation."""
    variant = parse_swaps("yolov8", "n", ["neck.up_p4=SAPA", f"{inserted}=SE"])
    assert rows(variant)["neck.up_p4"] == up
    assert rows(variant)["neck.cat_p4"] == guide
    assert host.build(render(variant).yaml, "n")(torch.rand(1, 3, 64, 64))[0].shape[:2] == (1, 84)


def test_a_slot_without_a_guide_is_refused():
    graph = load_base("yolov8")
    alone = replace(graph, layers=(*graph.layers, Layer("neck.up_p2", ("neck.c2f_p3",), "nn.Upsample", (None, 2))))
    why = misfit(alone, "neck.up_p2", parse_choice("FADE"), inserted=False)
    assert why.startswith("FADE needs a guide, a second map of its output's size: the other source of a Concat")
    assert "takes neck.up_p2" in why
    assert misfit(alone, "neck.up_p2", parse_choice("CARAFE"), inserted=False) == ""
    with pytest.raises(SpaceError, match=r"after neck\.c2f_p3: FADE cannot be inserted: it takes two inputs"):
        read_space("slots: {after neck.c2f_p3: [FADE]}", "s.yaml", "s")


def test_a_bad_argument_names_slot_module_and_what_would_do():
    text = "slots: {neck.up_*: [{FADE: {k_up: 4}}], after neck.c2f_p3: [{LSKA: {k_size: 9}}]}"
    with pytest.raises(SpaceError) as caught:
        read_space(text, "s.yaml", "s")
    assert "neck.up_*: FADE: k_up=4: expected an odd whole number from 1 to 11" in str(caught.value)
    assert "after neck.c2f_p3: LSKA: k_size=9: expected one of 7, 11, 23, 35, 41, 53" in str(caught.value)


def test_a_width_that_a_module_cannot_take_is_found_by_the_check():
    space = read_space("slots: {after neck.c2f_p3: [SE, {ACmix: {head: 3}}]}", "s.yaml", "s")
    with pytest.raises(SpaceError, match=r"after neck\.c2f_p3=ACmix\(head=3\) at scale n: .*64 channels, head=3"):
        check_space(space)


def test_every_new_kind_of_choice_is_proved():
    text = """
    slots:
      neck.up_*: [FADE, SAPA, BilinearUp, TransposedUp, PixelShuffleUp]
      backbone.sppf: [SPP, {SPPF: {k: 3}}, {SPPELAN: {c3: 64}}, SPPF_LSKA]
      after neck.c2f_p3: [SE, EMA, LSKA]
    """
    assert check_space(read_space(text, "s.yaml", "s")) == 2 * 5 + 4 + 3


# What Ultralytics has


@pytest.mark.parametrize(
    ("label", "text"),
    [("SPP", "SPP, [1024]"), ("SPPF(k=3)", "SPPF, [1024, 3]"), ("SPPELAN(c3=64)", "SPPELAN, [1024, 64, 5]")],
)
def test_modules_of_the_host_need_no_registration(label, text):
    variant = parse_swaps("yolov8", "n", [f"backbone.sppf={label}"])
    assert variant.added == ()
    assert variant.modules
    files = render(variant)
    assert f"[-1, 1, {text}]" in files.yaml
    assert files.snippet == f"{variant.name} is made of Ultralytics' own modules: it needs no registration.\n"
    assert render_branch(variant.modules) == ""
    built = host.build(files.yaml, "n").model[9]
    assert type(built).__module__.startswith("ultralytics.")
    assert built.cv1.conv.in_channels == 256, "scaled by the width, as the host does"
    with pytest.raises(OutputError, match="is made of Ultralytics' own modules: it needs no bundle"):
        bundle_files(variant, files)


def test_beside_others_they_are_left_out_of_the_branch():
    variant = parse_swaps("yolov8", "n", ["backbone.sppf=SPP", "neck.up_p4=CARAFE"])
    assert variant.added == ("CARAFE",)
    assert "SPP" not in render_snippet(variant)
