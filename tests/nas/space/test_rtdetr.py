"""RT-DETR's model YAMLs as bases: names, channels, cost, what may be swapped, and what is refused."""

from __future__ import annotations

import pytest
import torch

from nas.errors import SpaceError
from nas.model.check_space import check_space
from nas.model.cost import model_cost
from nas.model.host import build
from nas.model.render import render
from nas.session.calibration import open_calibrator
from nas.session.options import CalibrationOptions, SearchOptions
from nas.session.settings import new_settings
from nas.space.bases import base_names, load_base, p2_names, task_of_base
from nas.space.space_file import read_space
from nas.space.variant import Variant, parse_swaps
from nas.task.task import RTDETR

BASES = ("yolov8-rtdetr", "rtdetr-l", "rtdetr-x", "rtdetr-resnet50", "rtdetr-resnet101")
SPACE = """base: yolov8-rtdetr
scale: n
slots:
  neck.up_*: [keep, CARAFE, DySample]
  neck.down_n4: [SPConv]
  backbone.c2f_p4: [C2f_SPConv]
"""


def test_all_are_bases_of_a_task_of_their_own():
    assert set(BASES) <= set(base_names())
    assert {task_of_base(base) for base in BASES} == {RTDETR}
    assert base_names()[-4:] == ("rtdetr-l", "rtdetr-x", "rtdetr-resnet50", "rtdetr-resnet101")
    assert not any("rtdetr" in name for name in p2_names())


def test_layers_are_named_by_section_kind_and_stride():
    graph = load_base("rtdetr-l")
    assert graph.title == "RT-DETR-l"
    assert {
        "backbone.hgstem_p2", "backbone.hgblock_p4_3", "backbone.down_p3", "neck.aifi_p5", "neck.repc3_p3",
        "neck.repc3_n5", "neck.up_p4", "head.rtdetr",
    } <= set(graph.names)  # fmt: skip
    assert "neck.down_n4" in load_base("rtdetr-resnet50").names
    kinds = {graph[name].kind for name in graph.names if name.startswith("neck.repc3")}
    assert kinds == {"block"}
    assert graph["neck.aifi_p5"].kind is None
    assert Variant("rtdetr-l", "l").stock == "rtdetr-l"
    assert Variant("yolov8-rtdetr", "n").stock == "yolov8n-rtdetr"


@pytest.mark.parametrize("base", ["yolov8-rtdetr", "rtdetr-l", "rtdetr-resnet50"])
def test_channels_are_those_that_the_host_builds(base):
    graph = load_base(base)
    scale = graph.default_scale
    net = build(render(Variant(base, scale)).yaml, scale)
    seen: dict[int, int] = {}

    def note(row):
        def hook(_module, _inputs, output) -> None:
            seen[row] = output.shape[1]

        return hook

    for row, module in enumerate(net.model[:-1]):
        module.register_forward_hook(note(row))
    with torch.no_grad():
        net(torch.zeros(1, 3, 160, 160))
    assert [graph.channels(name, scale) for name in graph.names[:-1]] == [seen[row] for row in range(len(seen))]


@pytest.mark.parametrize("base", ["yolov8-rtdetr", "rtdetr-l"])
def test_the_cost_of_a_stock_model_is_the_hosts(base):
    from ultralytics.utils.torch_utils import get_flops

    scale = load_base(base).default_scale
    found = model_cost(build(render(Variant(base, scale)).yaml, scale))
    assert found.gflops == pytest.approx(get_flops(build(render(Variant(base, scale)).yaml, scale), 640), rel=1e-6)


def test_a_space_of_it_is_proved():
    assert check_space(read_space(SPACE, "rt.yaml", "rt")) == 6


def test_a_block_of_rtdetr_takes_other_blocks():
    variant = parse_swaps("rtdetr-l", "l", ["neck.repc3_n4=C2f_SPConv"])
    build(render(variant).yaml, "l")


def test_no_proxies_of_it_are_trained(tmp_path):
    space = read_space(SPACE, "rt.yaml", "rt")
    message = (
        "yolov8-rtdetr is a base of detection by RT-DETR, of which no proxies are trained.*`nas emit-yaml` take it"
    )
    with pytest.raises(SpaceError, match=message):
        new_settings(space, SearchOptions())
    (tmp_path / "rt.yaml").write_text(SPACE)
    with pytest.raises(SpaceError, match="no proxies are trained"):
        open_calibrator(tmp_path, None, CalibrationOptions(space=str(tmp_path / "rt.yaml")))


def test_a_head_of_detection_is_left_out():
    space = read_space(f"{SPACE}  head.detect: [SharedDetect]\n", "rt.yaml", "rt")
    assert space.left_out == (
        "head.detect is left out: its choices are heads of detection, yolov8-rtdetr is a base of detection by RT-DETR",
    )
