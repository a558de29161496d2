"""From a model YAML back to a variant: every rendered one comes back, and posts' mistakes are named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import ultralytics
from torch import nn

from nas.errors import ModelError, SpaceError
from nas.model.render import render
from nas.ops import registry
from nas.space.bases import base_names, load_base
from nas.space.choice import AFTER, Choice, misfit
from nas.space.import_yaml import variant_of_yaml
from nas.space.model_yaml import parse_model_yaml
from nas.space.space_file import load_space, shipped_spaces
from nas.space.variant import Variant, make_variant

STOCK = (Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml").read_text()
UP = '[-1, 1, nn.Upsample, [None, 2, "nearest"]]'


@pytest.fixture
def attention():
    """A module that can be inserted, registered for one test."""

    @registry.register(
        rule="same",
        kinds={"attention"},
        params=(registry.Arg("reduction", 4, "of the channels", low=1),),
        paper="none",
        summary="for the test",
    )
    class TestAttention(nn.Module):
        def __init__(self, c: int, reduction: int = 4) -> None:
            super().__init__()

    yield TestAttention
    del registry._ENTRIES["TestAttention"]


def came_back(variant: Variant, **given: str) -> bool:
    found = variant_of_yaml(parse_model_yaml(render(variant).yaml, f"{variant.name}.yaml"), **given)
    return found.variant == variant and not found.left_out


def random_swaps(base: str, rng: random.Random, share: float) -> dict[str, str]:
    """Return swaps of about a share of the layers, with arguments where a module has options."""
    graph, swaps = load_base(base), {}
    for layer in graph.layers:
        fitting = [
            n for n in registry.entries() if layer.kind and not misfit(graph, layer.name, Choice(n), inserted=False)
        ]
        if fitting and rng.random() < share:
            entry = registry.get(rng.choice(fitting))
            chosen = [a for a in entry.args.values() if a.options and rng.random() < 0.5]
            inner = ",".join(f"{a.name}={rng.choice(a.options)}" for a in chosen)
            swaps[layer.name] = f"{entry.name}({inner})" if inner else entry.name
    return swaps


@pytest.mark.parametrize("base", base_names())
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_any_variant_of_any_base_survives(base, share):
    scale = load_base(base).default_scale
    variant = make_variant(base, scale, random_swaps(base, random.Random(f"{base}{share}"), share))
    assert came_back(variant, base=base, scale=scale)


@pytest.mark.parametrize("name", shipped_spaces())
def test_any_variant_of_any_space_survives(name):
    space, rng = load_space(name), random.Random(0)
    for _ in range(40):
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.slots}
        if space.forbids(assignment):
            continue
        variant = space.variant(assignment)
        assert came_back(variant, base=space.base)


@pytest.mark.parametrize(
    "base", ["yolov3-tiny", "yolov5", "yolov8", "yolov8-p2", "yolov10n", "yolo11", "yolo12", "yolo26"]
)
def test_the_base_is_found(base):
    scale = load_base(base).default_scale
    assert came_back(make_variant(base, scale, random_swaps(base, random.Random(base), 0.4)))


def test_the_scale_is_read_from_the_name_as_the_host_does():
    assert variant_of_yaml(parse_model_yaml(STOCK, "/exp2s/yolov8m-mine.yaml")).variant.scale == "m"
    assert variant_of_yaml(parse_model_yaml(STOCK, "mine.yaml")).variant.scale == "n"
    assert variant_of_yaml(parse_model_yaml(STOCK, "yolov8m.yaml"), "s").variant.scale == "s"


def test_a_posts_upsamplers():
    text = STOCK.replace(UP, "[-1, 1, CARAFE, [3, 7]]").replace("nc: 80", "nc: 3")
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-carafe.yaml"))
    assert dict(found.variant.swaps) == {"neck.up_p3": "CARAFE(k_up=7)", "neck.up_p4": "CARAFE(k_up=7)"}
    assert found.left_out == ()
    assert [text.splitlines()[swap.line - 1].strip()[2:15] for swap in found.swaps] == ["[-1, 1, CARAF"] * 2


def test_insertions(attention):
    swaps = {f"{AFTER}backbone.c2f_p4": "TestAttention", f"{AFTER}neck.c2f_p3": "TestAttention(reduction=8)"}
    assert came_back(make_variant("yolov8", "n", swaps | {"neck.c2f_p3": "C2f_SPConv"}))


def test_an_insertion_that_forgot_to_move_the_numbers(attention):
    text = STOCK.replace("[-1, 1, SPPF, [1024, 5]] # 9", "[-1, 1, SPPF, [1024, 5]]\n  - [-1, 1, TestAttention, []]")
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-post.yaml"))
    assert dict(found.variant.swaps) == {"after backbone.sppf": "TestAttention"}
    with_swaps = "in yolov8 with these swaps"
    assert [text for _, text in found.left_out] == [
        f"neck.cat_n4 takes neck.down_n4, neck.cat_p4; {with_swaps} neck.down_n4, neck.c2f_p4",
        f"neck.cat_n5 takes neck.down_n5, backbone.sppf; {with_swaps} neck.down_n5, backbone.sppf+TestAttention",
        f"head.detect takes neck.cat_p3, neck.cat_n4, neck.cat_n5; {with_swaps} neck.c2f_p3, neck.c2f_n4, neck.c2f_n5",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (UP, "[-1, 1, CARAF, []]", "neck.up_p4: nn.Upsample replaced; CARAF is not registered (did you mean CARAFE"),
        (UP, "[-1, 1, CARAFE, [4]]", "expected an odd whole number from 1 to 9"),
        (UP, "[-1, 1, CARAFE, [3, 5, 64, 4]]", "scale=4; the layer that it replaces has scale 2"),
        (UP, "[-1, 1, CARAFE, [3, 5, 64, 2, 1]]", "5 arguments; it takes k_enc, k_up, c_mid, scale"),
        (UP, "[-1, 1, SPConv, [256, 3, 2]]", "SPConv fits slots of kind"),
        (
            UP,
            '[-1, 1, nn.Upsample, [None, 2, "bilinear"]]',
            "[None, 2, bilinear] in place of [None, 2, nearest]",
        ),
        ("[-1, 3, C2f, [512]]", "[-1, 3, C2f_SPConv, [256]]", "C2f_SPConv has 256 output channels in place of 512"),
        ("[-1, 3, C2f, [512]]", "[-1, 6, C2f_SPConv, [512]]", "6 repeats in place of 3: swaps keep them"),
        ("[-1, 3, C2f, [512]]", "[-1, 6, C2f, [512]]", "neck.c2f_p4: 6 repeats in place of 3"),
        ("[-1, 3, C2f, [512]]", "[-1, 3, C2f, [512, True]]", "C2f with [512, True] in place of [512]"),
        ("[-1, 1, Conv, [256, 3, 2]]", "[-1, 1, DCNv4, [256]]", "the layer that it replaces has"),
        ("[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPPF, [1024, 5]]\n  - [-1, 1, EMA_x, []]", "inserted; EMA_x is not"),
        ("n: [0.33, 0.25, 1024]", "n: [0.5, 0.25, 1024]", "scale n: [0.5, 0.25, 1024]; yolov8 has [0.33, 0.25, 1024]"),
        ("nc: 80", "activation: nn.ReLU()\nnc: 80", "activation: nn.ReLU(); yolov8 has none"),
        ("[[-1, 6], 1, Concat, [1]]", "[[-1, 4], 1, Concat, [1]]", "neck.cat_p4 takes neck.up_p4, backbone.c2f_p3"),
    ],
)
def test_what_is_no_swap_is_listed(old, new, message):
    assert old in STOCK
    found = variant_of_yaml(parse_model_yaml(STOCK.replace(old, new), "yolov8n-post.yaml"), base="yolov8")
    assert any(message in text for _, text in found.left_out), found.left_out


@pytest.mark.parametrize("stride", ["'ƅ'", ".nan", ".inf", "[2]"])
def test_a_stride_that_is_no_number_is_listed(stride):
    text = STOCK.replace("Conv, [256, 3, 2]", f"Conv, [256, 3, {stride}]", 1)
    assert text != STOCK
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-post.yaml"), base="yolov8")
    assert found.left_out


def test_a_missing_layer():
    text = STOCK.replace("  - [-1, 1, SPPF, [1024, 5]] # 9\n", "").replace("[[15, 18, 21]", "[[14, 17, 20]")
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-post.yaml"))
    assert "backbone.sppf (SPPF) of yolov8 is missing" in [text for _, text in found.left_out]


def test_what_is_near_no_base():
    text = "backbone:\n" + "  - [-1, 1, Conv, [64, 3, 1]]\n" * 9 + "head:\n  - [[-1], 1, Detect, [nc]]\n"
    with pytest.raises(ModelError, match="no variant of any known base; the most similar is"):
        variant_of_yaml(parse_model_yaml(text, "m.yaml"))
    with pytest.raises(ModelError, match="no variant of yolo11: "):
        variant_of_yaml(parse_model_yaml(text, "m.yaml"), base="yolo11")


def test_wrong_bases_and_scales():
    model = parse_model_yaml(STOCK, "m.yaml")
    with pytest.raises(SpaceError, match="unknown base 'yolo8'"):
        variant_of_yaml(model, base="yolo8")
    with pytest.raises(SpaceError, match="no scale 'q'"):
        variant_of_yaml(model, "q")
