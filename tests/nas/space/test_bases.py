"""Bases read from the installed Ultralytics: named, built, swapped, and equal to what the host builds itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from torch.utils._pytree import tree_leaves
from ultralytics.nn import tasks
from ultralytics.nn.tasks import yaml_model_load

from nas.errors import ModelError, SpaceError
from nas.model import host
from nas.model.cost import costed
from nas.model.render import render
from nas.ops import registry
from nas.space.bases import (
    _with_p2,
    base_names,
    base_of_file,
    load_base,
    name_layers,
    p2_names,
    task_of_base,
    use_base,
)
from nas.space.choice import Choice, misfit
from nas.space.graph import IMAGE, with_letter
from nas.space.model_yaml import parse_model_yaml, read_model_yaml
from nas.space.search_space import SearchSpace, Slot
from nas.space.variant import Variant, make_variant
from nas.task.task import DETECT, head_names

FILES = {f.stem: f for f in (Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml")}
SMALL = ("yolov3-tiny", "yolov5", "yolov6", "yolov8-p6", "yolov9t", "yolov10n", "yolo11", "yolo12", "yolo26")
"""One of each family, the smallest."""
OTHER_TASKS = ("yolov8-seg", "yolov8-pose", "yolov8-obb", "yolov8-cls", "yolov9c-seg", "yolo11-seg", "yolo11-cls")
OTHER_TASKS += ("yolo12-obb", "yolo26-seg", "yolo26-pose", "yolo26-obb")
"""Of each other task some, with the heads that differ."""


def swapped(base: str) -> Variant:
    """Return the variant with something in every layer's place that anything fits, but for the head's."""
    graph, swaps = load_base(base), {}
    for turn, layer in enumerate(graph.layers[:-1]):
        fitting = [
            n for n in registry.entries() if layer.kind and not misfit(graph, layer.name, Choice(n), inserted=False)
        ]
        if fitting:
            swaps[layer.name] = fitting[turn % len(fitting)]
    return make_variant(base, graph.default_scale, swaps)


def image(model) -> torch.Tensor:
    stride = max(32, int(model.stride.max()))  # a model of classification says 1
    return torch.rand(1, 3, 2 * stride, 3 * stride)


def test_every_yaml_of_a_task_of_the_host_is_a_base():
    with_head = {
        name
        for name, file in FILES.items()
        if name.startswith(("yolo", "rtdetr")) and yaml.safe_load(file.read_text())["head"][-1][2] in head_names()
    }
    assert set(base_names()) == with_head
    assert {"yolov3", "yolov5", "yolov6", "yolov8", "yolov9c", "yolov10n", "yolo11", "yolo12", "yolo26"} <= set(
        base_names()
    )


@pytest.mark.parametrize("name", base_names())
def test_layers_have_names_of_their_own_and_the_files_rows(name):
    graph, file = load_base(name), read_model_yaml(FILES[name])
    assert len(set(graph.names)) == len(graph.names) == len(file.rows)
    assert graph.names[-1] == f"head.{task_of_base(name).name}"
    assert task_of_base(name).mark in name
    assert (task_of_base(name) is DETECT) == (re.search("-(seg|pose|obb|cls)|rtdetr", name) is None)
    index = {layer: number for number, layer in enumerate(graph.names)} | {IMAGE: -1}
    for layer, row in zip(graph.layers, file.rows, strict=True):
        assert tuple(index[s] for s in layer.sources) == row.sources
        assert (layer.module, layer.args, layer.repeats) == (row.module, row.args, row.repeats)
        assert layer.kind in (None, "pool", "head") or layer.slot_values


def test_the_p2_head_of_another_family_is_built_as_that_of_yolov8():
    """YOLOv8's own, made by the same rule, is Ultralytics' file row by row."""
    made, file = _with_p2("yolov8"), read_model_yaml(FILES["yolov8-p2"])
    assert made is not None
    rows = [[(r.sources, r.repeats, r.module, r.args) for r in m.rows] for m in (made, file)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("base", ["yolov5-p2", "yolo11-p2", "yolo12-p2"])
def test_p2_bases_build_and_detect_at_stride_4(base):
    assert base in p2_names()
    graph = load_base(base)
    assert {"neck.up_p2", "neck.cat_p2", "neck.down_n3"} <= set(graph.names)
    model = host.build(render(Variant(base, "n")).yaml, "n")
    assert model.stride.tolist() == [4, 8, 16, 32]


def test_a_file_is_a_base_by_its_text(tmp_path):
    file = tmp_path / "yolov8n-mine.yaml"
    file.write_text(FILES["yolov8"].read_text().replace("SPPF, [1024, 5]", "SPPF, [1024, 7]"))
    name = base_of_file(file)
    assert name.startswith("yolov8-mine-")
    assert load_base(str(file)).base == load_base(name).base == name
    assert with_letter(name, "s").startswith("yolov8s-mine-")
    space = SearchSpace("mine", name, "n", (Slot("neck.up_p4", ("neck.up_p4",), ("keep", "CARAFE")),))
    assert SearchSpace.from_json(space.to_json()) == space
    with pytest.raises(SpaceError, match="do not belong together"):
        SearchSpace.from_json(space.to_json().replace("[1024, 7]", "[1024, 9]"))
    with pytest.raises(SpaceError, match="do not belong together"):
        use_base(f"../{name}", file.read_text())


def test_a_file_with_a_wrong_row_is_no_base(tmp_path):
    file = tmp_path / "mine.yaml"
    for old, new, message in (
        ("nn.Upsample, [None, 2,", "nn.Upsample, [None, [2],", "nn.Upsample cannot take"),
        ("SPPF, [1024, 5]", "SPPFF, [1024, 5]", "SPPFF is not registered"),
        ("Detect, [nc]", "Depth, [256]", "head for depth estimation; nas searches models of detection"),
    ):
        file.write_text(FILES["yolov8"].read_text().replace(old, new))
        with pytest.raises(ModelError, match=rf"mine\.yaml:\d+: .*{message}"):
            base_of_file(file)


def test_names_are_those_that_yolov8_ships_with():
    assert name_layers(read_model_yaml(FILES["yolov8"]), "yolov8").names == load_base("yolov8").names


@pytest.mark.parametrize(
    ("base", "names"),
    [
        ("yolo11", ["backbone.stem_p1", "backbone.c3k2_p3", "backbone.sppf", "backbone.c2psa", "neck.c3k2_n5"]),
        ("yolov8-p2", ["neck.up_p2", "neck.c2f_p2", "neck.down_n3", "neck.c2f_n5"]),
        ("yolov8-p6", ["backbone.down_p6", "neck.up_p5", "neck.down_n6"]),
        ("yolov9e", ["backbone.identity_p0", "backbone.stem_p1", "backbone.down_p1", "backbone.down_p2_2"]),
        ("yolov3-tiny", ["backbone.maxpool_p3", "backbone.maxpool_p5_2", "neck.conv_p5_4"]),
        ("yolov6", ["neck.up_p4", "neck.conv_p4_3", "neck.down_n5"]),
    ],
)
def test_names_say_section_kind_and_stride(base, names):
    graph = load_base(base)
    assert [name for name in names if name not in graph.names] == []


def test_levels_are_the_strides_of_what_layers_put_out():
    base = load_base("yolo26-p2")
    model = host.build(render(Variant("yolo26-p2", "n")).yaml, "n")
    sides: dict[str, int] = {}
    for layer, module in zip(base.layers, model.model, strict=True):
        module.register_forward_hook(
            lambda _m, _i, out, name=layer.name: (
                sides.__setitem__(name, out.shape[-1]) if torch.is_tensor(out) else None
            )
        )
    with torch.no_grad():
        model(torch.rand(1, 3, 128, 128))
    for name, side in sides.items():
        if name[-1].isdigit():
            assert 128 / side == 2 ** int(name[-1]), name


@pytest.mark.parametrize("name", SMALL + OTHER_TASKS)
def test_the_rendered_base_is_the_hosts_own_model(name):
    scale = load_base(name).default_scale
    ours = host.build(render(Variant(name, scale)).yaml, scale)
    cls = getattr(tasks, task_of_base(name).model)
    theirs = cls(yaml_model_load(FILES[name]) | {"scale": scale}, verbose=False).eval()
    assert type(ours) is cls
    ours.load_state_dict(theirs.state_dict())
    x = image(ours)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(ours(x)), tree_leaves(theirs(x)), strict=True))


@pytest.mark.parametrize("name", SMALL + OTHER_TASKS)
def test_swapping_every_layer_keeps_the_head(name):
    variant = swapped(name)
    assert len(variant.swaps) > 5
    model = host.build(render(variant).yaml, variant.scale)
    stock = host.build(render(Variant(name, variant.scale)).yaml, variant.scale)
    with torch.no_grad():
        shapes = [[part.shape for part in tree_leaves(m(image(m)))] for m in (model, stock)]
    assert shapes[0] == shapes[1]
    own, theirs = (sum(p.numel() for p in m.model[-1].parameters()) for m in (model, stock))
    assert own == theirs


def test_a_head_of_yolo11_would_change_without_the_constant():
    """What the constant `legacy` is for: with no C3k2 left, the host takes YOLOv8's class branch."""
    text = render(swapped("yolo11")).yaml
    assert "legacy: False\n" in text
    with_it, without = (host.build(t, "n").model[-1] for t in (text, text.replace("legacy: False\n", "")))
    assert sum(p.numel() for p in with_it.parameters()) < sum(p.numel() for p in without.parameters())


@pytest.mark.parametrize(
    ("base", "letter", "name"),
    [
        ("yolov8", "n", "yolov8n"),
        ("yolo11", "x", "yolo11x"),
        ("yolov8-ghost-p2", "s", "yolov8s-ghost-p2"),
        ("yolov10n", "n", "yolov10n"),
        ("yolov9c", "", "yolov9c"),
        ("YOLOv8-p2", "m", "YOLOv8m-p2"),
    ],
)
def test_the_letter_stands_where_the_host_looks_for_it(base, letter, name):
    assert with_letter(base, letter) == name


@pytest.mark.parametrize("base", SMALL)
def test_the_host_reads_the_scale_from_the_name(base, tmp_path):
    graph = load_base(base)
    for scale in graph.scales or [""]:
        files = render(Variant(base, scale))
        path = tmp_path / f"{files.name}.yaml"
        read, _ = host.chosen_scale(path, parse_model_yaml(files.yaml, str(path)))
        assert read == scale or not graph.scales


def test_a_base_of_one_size_states_its_cost():
    text = costed(Variant("yolov9t", ""))[0].yaml
    assert "\n# YOLOv9t summary: 2128720 parameters, 8.5 GFLOPs\n" in text
    assert "scales:" not in text


def test_scales_that_a_base_does_not_have():
    with pytest.raises(SpaceError, match="yolov9c has one size and no scales: leave the scale 'n' out"):
        make_variant("yolov9c", "n", {})
    with pytest.raises(SpaceError, match="yolov10n has no scale 's'; its scales: n"):
        make_variant("yolov10n", "s", {})
