"""What runs alone on other machines: differences, turns, layers that an engine lacks, a process that ends."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from nas.engines import board


def answers(n: int = 2, classes: int = 3, anchors: int = 7) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.random((n, 4, anchors)) * 64, rng.random((n, classes, anchors))], 1).astype("float32")


def test_boxes_count_by_the_image_side_and_scores_as_they_are():
    expected, found = answers(), answers()
    found[1, 2, 3] += 6.4
    found[0, 5, 1] -= 0.25
    difference = board.differences([expected], [found], 64)
    assert difference["boxes"] == pytest.approx(0.1, rel=1e-4)
    assert difference["scores"] == pytest.approx(0.25, rel=1e-4)
    assert board.differences([expected], [expected], 64) == {"boxes": 0.0, "scores": 0.0}


def test_parts_count_by_their_largest_value():
    expected = [np.array([[4.0, -8.0]]), np.array([1.0])]
    assert board.differences(expected, [np.array([[4.0, -8.0]]), np.array([3.0])], 0) == {"values": 0.25}


def test_what_is_no_number_is_infinitely_far_off():
    found = answers()
    found[0, 0, 0] = np.nan
    assert board.differences([answers()], [found], 64) == {"boxes": math.inf, "scores": math.inf}


def test_another_shape_is_no_answer():
    with pytest.raises(ValueError, match=r"of shape \[\(2, 7, 6\)\], not \[\(2, 7, 7\)\]"):
        board.differences([answers()], [answers(anchors=6)], 64)


def detections() -> np.ndarray:
    rng = np.random.default_rng(1)
    scores = np.linspace(0.9, 0.1, 20)
    found = np.concatenate([rng.random((20, 4)) * 64, scores[:, None], rng.integers(0, 3, (20, 1))], 1)
    return found[None].astype("float32")


def test_detections_may_change_their_order_but_not_their_values():
    expected, found = detections(), detections()
    found[0, [2, 3]] = found[0, [3, 2]]
    assert board.differences([expected], [found], 64) == {"boxes": 0.0, "scores": 0.0}
    found[0, 5, 1] += 6.4
    assert board.differences([expected], [found], 64)["boxes"] == pytest.approx(0.1, rel=1e-3)


def test_a_detection_of_another_class_is_another_one():
    expected, found = detections(), detections()
    found[0, 4, 5] += 1
    assert board.differences([expected], [found], 64)["boxes"] > 0.01


def test_a_detection_that_is_not_there_is_missed():
    expected, found = detections(), detections()
    found[0, 0] = found[0, 1]
    assert board.differences([expected], [found], 64)["scores"] > 0.01


class Clock:
    """A clock that a run moves on, and everything slows down in the middle."""

    def __init__(self) -> None:
        self.now, self.turns = 0.0, count()

    def run(self, seconds: float):
        def once():
            self.now += seconds * (3 if next(self.turns) > 40 else 1)
            return []

        return once

    def __call__(self) -> float:
        return self.now


def test_a_ratio_survives_a_machine_that_becomes_slower(monkeypatch):
    monkeypatch.setattr(board, "_WARM_S", 0.0)
    clock = Clock()
    found = board.alternate(clock.run(0.02), clock.run(0.01), 10, 0.0, clock)
    assert found["ratio"] == pytest.approx(2.0)
    assert found["ratio_low"] == pytest.approx(2.0)
    assert found["ms"] == pytest.approx(60.0)
    assert found["spread_ms"] == pytest.approx(40.0)
    assert found["runs"] == 30


def test_one_thread_is_timed_by_the_processor():
    assert board.clock_of(2)[1] == "time"
    assert board.clock_of(1)[1] == "processor time"


def test_layers_that_ncnn_lacks():
    param = "7767517\n3 3\nInput in0 0 1 in0\nConvolution conv0 1 1 in0 1\ntorch.roll roll_0 1 1 1 out0\n"
    assert board.missing_layers(param, lambda name: 0 if name in ("Input", "Convolution") else -1) == ["torch.roll"]


@pytest.fixture
def folder(tmp_path) -> Path:
    model = {"name": "one", "digest": "abc", "imgsz": 64, "folder": "m000", "inputs": "inputs0.npz", "tolerance": 1e-3}
    plan = {"engine": "onnxruntime", "threads": 1, "precision": "fp32", "rounds": 0}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "models": [model]}))
    (tmp_path / "m000").mkdir()
    np.savez(tmp_path / "inputs0.npz", x0=np.zeros((1, 3, 64, 64), "float32"))
    np.savez(tmp_path / "m000" / "answers.npz", x0=answers())
    return tmp_path


def loading(found: np.ndarray) -> dict[str, board.Loader]:
    return {"onnxruntime": lambda folder, plan, inputs: lambda: [found]}


def test_an_equal_answer_is_proved(folder):
    found = board.measure(folder, "one", "", loading(answers()))
    assert found == {"name": "one", "digest": "abc", "failure": "", "boxes": 0.0, "scores": 0.0}


def test_another_answer_is_a_failure_with_how_far_off_it_is(folder):
    wrong = answers()
    wrong[0, 6, 0] += 0.5
    found = board.measure(folder, "one", "", loading(wrong))
    assert found["failure"] == "its answer differs from PyTorch's in scores by 0.5, more than 0.001"
    assert "ms" not in found


def test_an_engine_that_ends_its_process_is_a_failure(folder):
    (folder / "run.py").write_text(
        "import os, sys\nprint('layer X not exists', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    found = board.measure_in_process(folder, "one")
    assert found["failure"] == "onnxruntime ended its process (signal 6): layer X not exists"
    assert found["digest"] == "abc"


def test_an_engine_that_hangs_is_a_failure(folder, monkeypatch):
    (folder / "run.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(board, "_LONGEST_S", 0.2)
    assert board.measure_in_process(folder, "one")["failure"] == "onnxruntime did not finish within 0.2 s"


def test_it_needs_nothing_of_nas(tmp_path):
    """As a board has it: the file alone, with NumPy."""
    (tmp_path / "run.py").write_text(Path(board.__file__).read_text())
    script = "import sys; sys.modules['nas'] = None; import run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
