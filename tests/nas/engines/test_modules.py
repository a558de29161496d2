"""Modules that an engine ran wrongly, or not at all, before their export was rewritten."""

from __future__ import annotations

import pytest
import torch

import nas.ops.families  # noqa: F401  registers the modules
from nas.engines import ENGINES, Conditions
from nas.engines.measure import measure_models, part_subject
from nas.engines.prepare import add_noise
from nas.model.module_card import example
from nas.ops.registry import entries

UNTIMED = Conditions(rounds=0)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("openvino", "ACmix"),  # abs of whole numbers
        ("ncnn", "FADE"),  # repeat_interleave
        ("ncnn", "HWD"),  # slices with steps
        ("ncnn", "SPConv"),  # lerp
        ("ncnn", "SE"),  # a product with channel means
        ("ncnn", "SimAM"),
        ("onnxruntime", "SAPA"),  # products of matrices
        ("onnxruntime", "DySample"),  # gathers
    ],
)
def test_a_module_answers_as_pytorch(engine, name):
    for package in ENGINES[engine].packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    module, inputs = example(entries()[name])
    (found,) = measure_models(
        ENGINES[engine], [part_subject(name, add_noise(module.eval()), inputs)], UNTIMED, lambda _: None
    )
    assert not found.failure
    assert found.values < 1e-4
