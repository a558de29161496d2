"""Spaces to start from: whole, readable as they are written, and proved."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.emit.starter_space import space_of, starting_space
from nas.errors import SpaceError
from nas.model.check_space import check_space
from nas.space.bases import base_names, load_base
from nas.space.choice import Choice, misfit
from nas.space.graph import IMAGE
from nas.space.space_file import read_space
from nas.space.variant import make_variant


@pytest.mark.parametrize("base", base_names())
def test_every_base_has_a_space_with_every_layer_that_something_fits(base):
    space = read_space(starting_space(base), "my.yaml", "my")
    graph = load_base(base)
    offered = {layer: slot.choices[1:] for slot in space.slots for layer in slot.layers}
    for layer in graph.layers:
        of_the_image = layer.sources[0] == IMAGE or graph[layer.sources[0]].module == "nn.Identity"
        fits = layer.kind and not of_the_image and not misfit(graph, layer.name, Choice("DynamicConv"), inserted=False)
        assert ("DynamicConv" in offered.get(layer.name, ())) == bool(fits), layer.name
    assert space.base == base
    assert space.scale == graph.default_scale
    assert space.active


@pytest.mark.parametrize("base", ["yolov5", "yolo11"])
def test_it_proves_itself(base):
    assert check_space(read_space(starting_space(base), "my.yaml", "my")) > 40


def test_layers_of_high_resolution_are_off():
    space = read_space(starting_space("yolo11"), "my.yaml", "my")
    off = {slot.key for slot in space.slots if not slot.enabled}
    assert off == {"backbone.down_p2", "backbone.c3k2_p2"}


def test_modules_scale_and_what_is_wrong_with_them():
    space = read_space(starting_space("yolov8", "s", ["CARAFE"]), "my.yaml", "my")
    assert {slot.choices for slot in space.slots} == {("keep", "CARAFE")}
    assert space.scale == "s"
    with pytest.raises(SpaceError, match="unknown module 'CARAF'; did you mean CARAFE"):
        starting_space("yolov8", modules=["CARAF"])
    with pytest.raises(SpaceError, match="no scale 'q'"):
        starting_space("yolov8", "q")
    with pytest.raises(SpaceError, match="unknown base"):
        starting_space("yolo99")


def test_the_space_of_an_imported_variant():
    variant = make_variant("yolov8", "s", {"neck.up_p4": "CARAFE(k_up=7)", "neck.c2f_p3": "C2f_SPConv"})
    space = read_space(space_of(variant), "my.yaml", "my")
    assert space.scale == "s"
    assert space.variant({slot.key: slot.choices[-1] for slot in space.slots}) == variant


# The commands


def run(*args: str):
    return CliRunner().invoke(cli, args)


def test_space_init_writes_over_nothing(tmp_path):
    path = tmp_path / "my.yaml"
    done = run("space", "init", "--base", "yolo11", "-o", str(path))
    assert done.exit_code == 0
    assert "22 slots, 20 of them on" in done.output
    assert f"Next:  nas space check {path}" in done.output
    path.write_text("mine\n")
    done = run("space", "init", "-o", str(path))
    assert done.exit_code == 1
    assert "exists and differs; --force replaces it" in done.output
    assert path.read_text() == "mine\n"
    assert run("space", "init", "-o", str(path), "--force").exit_code == 0
    done = run("space", "init", "--base", "yolo13", "-o", str(tmp_path / "x.yaml"))
    assert done.exit_code == 1
    assert "unknown base 'yolo13'; did you mean" in done.output


def test_import_prints_a_variant_and_writes_its_space(tmp_path):
    from nas.model.render import render

    variant = make_variant("yolo11", "n", {"neck.up_p4": "CARAFE", "neck.c3k2_p3": "C2f_SPConv"})
    model = tmp_path / f"{variant.name}.yaml"
    model.write_text(render(variant).yaml)
    done = run("import", str(model), "-o", str(tmp_path / "space.yaml"))
    assert done.exit_code == 0, done.output
    assert f"is {variant.name}: " in done.output
    assert "--base yolo11 --scale n --swap 'neck.c3k2_p3=C2f_SPConv' --swap 'neck.up_p4=CARAFE'" in done.output
    assert read_space((tmp_path / "space.yaml").read_text(), "s", "s").size == 4


def test_import_of_what_cannot_be_read_whole(tmp_path):
    from nas.model.render import render

    text = render(make_variant("yolov8", "n", {"neck.up_p4": "CARAFE"})).yaml
    model = tmp_path / "yolov8n-post.yaml"
    model.write_text(text.replace("SPPF", "SPPX"))
    done = run("import", str(model), "-o", str(tmp_path / "space.yaml"))
    assert done.exit_code == 1
    assert "backbone.sppf: SPPF replaced; SPPX is not registered" in done.output
    assert not (tmp_path / "space.yaml").exists()
    done = run("import", str(model), "--partial", "-o", str(tmp_path / "space.yaml"))
    assert done.exit_code == 0
    assert "left out: " in done.output
    assert (tmp_path / "space.yaml").exists()
    model.write_text("\tnc: 1")
    done = run("import", str(model))
    assert done.exit_code == 1
    assert done.output.startswith(f"error: {model}: not YAML")


def test_labels_of_the_hosts_classes_read_back():
    variant = make_variant("yolov8", "n", {"neck.c2f_p3": "host:C3(channels, 'it is', [3, 5])"})
    assert read_space(space_of(variant), "my.yaml", "my").slots[0].choices[1] == "host:C3(channels,it is,[3,5])"
