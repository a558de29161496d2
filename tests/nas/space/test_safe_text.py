"""Texts that Ultralytics would evaluate, and texts that become file names, comments and scripts."""

from __future__ import annotations

import pytest

from nas.errors import ModelError, SpaceError
from nas.space.model_yaml import parse_model_yaml
from nas.space.safe_text import ACTIVATIONS, activation_problem, argument_problem, module_problem
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.space.variant import Variant

CALL = "__import__('os').system('touch RAN')"


@pytest.mark.parametrize(
    "text",
    [
        "nn.SiLU()", "torch.nn.ReLU()", "nn.LeakyReLU(0.1)", "nn.LeakyReLU(negative_slope=-0.1)",
        "nn.ReLU(inplace=True)",
        "nn.GELU(approximate='tanh')", " nn.Hardswish() ", "nn.Identity()", "nn.Hardtanh(-1, 1)",
    ],
)  # fmt: skip
def test_activations_that_may_be_evaluated(text):
    assert activation_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        CALL, f"{CALL} or nn.SiLU()", "nn.SiLU", "SiLU()", "os.nn.SiLU()", "nn.Linear(1, 1)", "nn.Module()",
        f"nn.SiLU({CALL})", "nn.SiLU(*[1])", "nn.SiLU(**{})", "nn.LeakyReLU(10**9)", "nn.PReLU(10000000)", "",
        "nn.SiLU().__class__()", "(lambda: nn.SiLU())()", "nn.SiLU();1", "nn.SiLU(\n", "(" * 150, "-" * 150 + "1",
        "nn.LeakyReLU(" + "1" * 500 + ")", "nn.GELU('os')", "[nn.SiLU() for _ in [1]][0]", "nn.SiLU() if 1 else 2",
    ],
)  # fmt: skip
def test_expressions_that_may_not(text):
    assert "no activation that may be evaluated; expected one of torch.nn" in activation_problem(text)


def test_every_allowed_activation_is_a_class_of_torch():
    from torch import nn

    assert all(issubclass(getattr(nn, name), nn.Module) for name in ACTIVATIONS)


@pytest.mark.parametrize(
    "text", ["nearest", "1e-4", "True", "None", "(3, 3)", "[1, 2.5, 'lp']", "nn.SiLU()", "a b", ""]
)
def test_arguments_that_are_words_or_literals(text):
    assert argument_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [CALL, "{1: 2}", "a" * 300, "weights/x.pt", "x.yaml", "f(1)", "[x for x in y]", "a\nb"],
)
def test_arguments_that_are_not(text):
    assert argument_problem(text)


@pytest.mark.parametrize("name", ["Conv", "nn.Upsample", "torchvision.ops.DeformConv2d", "C2f_DCNv4"])
def test_modules(name):
    assert module_problem(name) == ""


@pytest.mark.parametrize(
    "name", ["", "os.system", "nn.modules.Conv", "__import__", "Conv()", "C onv", "a" * 300, "nn."]
)
def test_texts_that_are_no_module(name):
    assert "expected a class's name" in module_problem(name)


@pytest.mark.parametrize(
    ("base", "scale", "swaps"),
    [
        ("yolov8", 'n"), __import__("os").system("x"), ("', ()),
        ("../yolov8", "n", ()),
        ("yolov8\n", "n", ()),
        ("yolov8", "n", (("neck.up_p4", 'CARAFE"""\nimport os'),)),
        ("yolov8", "n", (("neck.up_p4\x1b[31m", "CARAFE"),)),
        ("yolov8", "n", (("neck.up_p4", "CARAFE\\u0022"),)),
        (3, "n", ()),
        ("yolov8", "n", (("a", ["b"]),)),
    ],
)
def test_a_variant_takes_names_alone(base, scale, swaps):
    with pytest.raises(SpaceError, match="expected"):
        Variant(base, scale, swaps)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"yolov8"', '"../../etc"'),
        ('"scale": "n"', '"scale": "n\\"; import os"'),
        ('"CARAFE"', '"CARAFE\\nimport os"'),
        ('"neck.up_*"', '"{{ 7 * 7 }}"'),
        ('"limits": {}', '"limits": {}, "modules": [["../x.py", ""]]'),
        ('"limits": {}', '"limits": {"max_gflops": "much"}'),
        ('"limits": {}', '"limits": []'),
        ('"slots": [', '"slots": [["a", [], [], true], '),
    ],
)
def test_a_stored_space_is_checked_as_input(old, new):
    text = load_space("quick").to_json()
    assert old in text
    with pytest.raises(SpaceError):
        SearchSpace.from_json(text.replace(old, new, 1))


ROWS = "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (f"activation: {CALL}\n{ROWS}", 1, "no activation that may be evaluated"),
        (ROWS.replace("Conv,", "os.system,"), 2, "expected a class's name"),
        (ROWS.replace("64, 3", f'"{CALL}", 3'), 2, "could be evaluated"),
        (ROWS.replace("64, 3", "weights/a.pt, 3"), 2, "names a file"),
    ],
)
def test_an_import_says_what_it_does_not_read(text, line, words):
    with pytest.raises(ModelError, match=rf"m\.yaml:{line}: .*{words}"):
        parse_model_yaml(text, "m.yaml")


def test_an_activation_of_torch_is_read():
    assert dict(parse_model_yaml(f"activation: nn.ReLU()\n{ROWS}", "m.yaml").constants) == {"activation": "nn.ReLU()"}
