"""The named-layer graph against the host's own YAML, and what insertions do to numbers."""

from pathlib import Path

import pytest
import yaml

from nas.errors import SpaceError
from nas.space.bases import base_names, load_base


def host_yaml(name: str) -> dict:
    import ultralytics

    return yaml.safe_load((Path(ultralytics.__file__).parent / f"cfg/models/v8/{name}.yaml").read_text())


def as_rows(graph):
    def plain(value):
        return "None" if value is None else value

    return [
        [
            list(r.source) if isinstance(r.source, tuple) else r.source,
            r.layer.repeats,
            r.layer.module,
            [*map(plain, r.layer.args)],
        ]
        for r in graph.rows()
    ]


def test_base_is_the_hosts_own_architecture():
    host = host_yaml("yolov8")
    graph = load_base("yolov8")
    assert as_rows(graph) == host["backbone"] + host["head"]
    assert {k: list(v) for k, v in graph.scales.items()} == host["scales"]
    assert graph.nc == host["nc"]


def test_names_are_the_designs():
    names = load_base("yolov8").names
    assert len(names) == 23
    assert names[0] == "backbone.stem_p1"
    assert names[15] == "neck.c2f_p3"
    assert names[-1] == "head.detect"


def test_kinds():
    kinds = {layer.name: layer.kind for layer in load_base("yolov8").layers}
    assert {n for n, k in kinds.items() if k == "up"} == {"neck.up_p4", "neck.up_p3"}
    downs = {f"backbone.{n}" for n in ("stem_p1", "down_p2", "down_p3", "down_p4", "down_p5")}
    assert {n for n, k in kinds.items() if k == "down"} == downs | {"neck.down_n4", "neck.down_n5"}
    assert sum(k == "block" for k in kinds.values()) == 8
    assert kinds["backbone.sppf"] == "pool"
    assert kinds["head.detect"] == "head"
    assert kinds["neck.cat_p4"] is None
    assert kinds["neck.cat_p4"] is None


def test_slot_values():
    graph = load_base("yolov8")
    assert graph["neck.up_p4"].slot_values == {"scale": 2}
    assert graph["backbone.down_p3"].slot_values == {"kernel": 3, "stride": 2}
    assert graph["backbone.c2f_p3"].slot_values == {"shortcut": True}
    assert graph["neck.c2f_p3"].slot_values == {"shortcut": False}


def test_swap_keeps_every_number():
    graph = load_base("yolov8")
    swapped = graph.swap("neck.up_p4", "CARAFE", (3, 5, 64, 2), "CARAFE")
    assert [r.source for r in swapped.rows()] == [r.source for r in graph.rows()]
    assert swapped["neck.up_p4"].module == "CARAFE"
    assert graph["neck.up_p4"].module == "nn.Upsample"


def test_insert_moves_numbers_and_readers():
    graph = load_base("yolov8").insert("backbone.c2f_p4", "Att", (), "Att")
    rows = {r.layer.name: r for r in graph.rows()}
    assert rows["backbone.c2f_p4+Att"].index == 7
    assert rows["backbone.c2f_p4+Att"].source == -1
    assert rows["backbone.down_p5"].source == -1
    assert rows["neck.cat_p4"].source == (-1, 7)
    assert rows["neck.cat_p3"].source == (-1, 4)
    assert rows["head.detect"].source == (16, 19, 22)


def test_unknown_layer_names_close_matches():
    with pytest.raises(SpaceError, match=r"no layer 'neck.up_p5'; did you mean neck.up_p4 or neck.up_p3"):
        load_base("yolov8")["neck.up_p5"]


def test_unknown_base():
    assert "yolov8" in base_names()
    with pytest.raises(SpaceError, match="unknown base 'yolo8'; did you mean yolov8"):
        load_base("yolo8")
