"""What `nas ops NAME` says of engines."""

from __future__ import annotations

import json
import re

from click.testing import CliRunner

from nas.cli import cli


def ops(*words: str) -> str:
    done = CliRunner().invoke(cli, ["ops", *words])
    assert done.exit_code == 0
    return done.stdout


def test_how_an_engine_runs_a_module():
    assert re.search(r"^ONNX Runtime: [0-9.]+ x Conv 3x3, equal to [0-9]e-0[5-9] \(.*1 thread", ops("RepVGG"), re.M)


def test_answers_are_equal_where_they_are_measured():
    measured = [engines for module in json.loads(ops("--json")) if (engines := module["engines"])]
    assert measured
    for engines in measured:
        assert not engines["onnxruntime"]["failure"]
        assert not engines["openvino"]["failure"]
        assert all(one["failure"] or one["difference"] < 1e-3 for one in engines.values())
