"""Ultralytics evaluates texts of a model YAML and looks names up: only layers and plain values get there."""

from __future__ import annotations

import socket

import pytest
import torch
from ultralytics.nn import tasks

from nas.errors import BuildError
from nas.model import host
from nas.model.host_input import no_network, read_config
from nas.model.render import render
from nas.space.variant import Variant

YAML = render(Variant("yolov8", "n")).yaml
FIRST = "[-1, 1, Conv, [64, 3, 2]]"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nc: 80", "nc: 80\nactivation: print(1)", "activation: .*no activation that may be evaluated"),
        (FIRST, "[-1, 1, torch_safe_load, [x]]", "row 0: torch_safe_load is no layer"),
        (FIRST, "[-1, 1, __builtins__, [64]]", "row 0: module '__builtins__'; expected a class's name"),
        (FIRST, "[-1, 1, DetectionModel, [x]]", "row 0: DetectionModel is a whole model"),
        (FIRST, "[-1, 1, Ensemble, []]", "row 0: Ensemble is a whole model"),
        (FIRST, "[-1, 1, nn.Parameter, [3]]", "row 0: nn.Parameter is no layer"),
        (FIRST, '[-1, 1, Conv, ["open(1)", 3, 2]]', "row 0: the text 'open\\(1\\)' could be evaluated"),
        (FIRST, "[-1, 1, Conv, [weights/a.pt, 3, 2]]", "row 0: .*names a file"),
        (FIRST, "[-1, 1, Conv, [ast, 3, 2]]", "row 0: 'ast' is a variable of Ultralytics' parse_model"),
        (FIRST, "[-1, 1, Conv, [{a: 1}, 3, 2]]", "row 0: .*expected numbers, words, or lists"),
        (FIRST, "[-1, 1, Conv, [900000000, 3, 2]]", "row 0: 900000000; at most 65,536"),
        (FIRST, "[-1, 999999, Conv, [64, 3, 2]]", "row 0: repeats: 999999; at most 200"),
        (FIRST, "[-1, 1, Conv]", "row 0: expected \\[from, repeats, module"),
        (FIRST, "[-1, 1, TorchVision, [64, fasterrcnn_resnet50_fpn]]", "none of torchvision's classification models"),
        ("n: [0.33, 0.25, 1024]", "n: [0.33, 1e9, 1024]", "scales: expected"),
    ],
)
def test_what_is_no_layer_or_plain_value_is_refused(old, new, words):
    assert old in YAML
    with pytest.raises(BuildError, match=words):
        host.build(YAML.replace(old, new, 1), "n")


def test_every_text_of_ours_passes():
    host.check_yaml(YAML)
    with pytest.raises(BuildError, match="control characters"):
        host.check_yaml(f"# \x1b[31m\n{YAML}")


def test_torchvision_rows_are_built_without_weights(monkeypatch):
    rows = YAML.replace(FIRST, "[-1, 1, TorchVision, [64, resnet18, DEFAULT, True, 6, False]]", 1)
    assert read_config(rows, tasks)["backbone"][0][3] == [64, "resnet18", None, True, 6, False]
    short = YAML.replace(FIRST, "[-1, 1, TorchVision, [64, resnet18]]", 1)
    assert read_config(short, tasks)["backbone"][0][3] == [64, "resnet18", None]
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    assert type(host.build(rows, "n").model[0]).__name__ == "TorchVision"


def test_a_module_that_asks_the_network_fails(monkeypatch):
    def asks(self, *args):
        raise_for = socket.create_connection(("192.0.2.1", 80), timeout=1)
        raise AssertionError(raise_for)

    monkeypatch.setattr(tasks.SPPF, "__init__", asks)
    with pytest.raises(BuildError, match="a module of the model asks the network, which this tool does not"):
        host.build(YAML, "n")


def test_only_what_is_guarded_is_refused():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with no_network("it"), pytest.raises(PermissionError, match="it asks the network"):
            socket.create_connection(server.getsockname(), timeout=1)
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_an_activation_does_not_outlive_a_model_that_fails():
    before = tasks.Conv.default_act
    broken = YAML.replace("nc: 80", "nc: 80\nactivation: nn.ReLU()").replace("[1024, 5]", "[1024, 5, 6, 7, 8, 9]")
    with pytest.raises(BuildError):
        host.build(broken, "n")
    assert tasks.Conv.default_act is before


def test_a_model_that_is_too_large_is_refused_before_it_takes_memory():
    large = YAML.replace("n: [0.33, 0.25, 1024]", "n: [0.33, 16, 60000]")
    with pytest.raises(BuildError, match=r"it has [\d,]+ parameters; at most 2,000,000,000 are built"):
        host.check_size(large, "n")
    host.check_size(YAML, "n")
