"""`nas data` after a study has trained a baseline: the levels that its assigner uses."""

from __future__ import annotations

import json

from click.testing import CliRunner

from nas.cli import cli
from nas.data import demo
from nas.data.dataset import load
from nas.files import write_json


def invoke(*args: str):
    return CliRunner().invoke(cli, list(args))


def test_a_trained_baseline_says_which_levels_it_uses(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = {"data": load(tiny_data).fingerprint, "base": "yolov8n", "recipe": {"imgsz": 224, "windows_at": 640}}
    levels = {"P3": 0.25, "P4": 0.75, "P5": 0.0}
    bank = tmp_path / "studies" / "weights" / "bank-1"
    bank.mkdir(parents=True)
    write_json(bank / "bank.json", {"about": about, "levels": levels})
    assert invoke("data", str(tiny_data)).output.splitlines()[-1] == (
        "trained baseline, yolov8n on windows of 224 px at 640 px: its assigner takes P3 25%, P4 75%, P5 0% of the "
        "positives on training images; it does not use P5"
    )
    (trained,) = json.loads(invoke("data", str(tiny_data), "--json").stdout)["trained"]
    assert trained == {"base": "yolov8n", "fidelity": {"imgsz": 224, "windows_at": 640}, "levels": levels}


def test_labels_of_another_task(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in demo.generate({"train": 8, "val": 4}, task="pose").items():
        (tmp_path / "poses" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "poses" / name).write_bytes(content)
    said = invoke("data", "poses", "--task", "pose")
    assert said.exit_code == 0, said.output
    assert "8 training and 4 validation images" in said.stdout
    assert "objects" in said.stdout
    assert "windows of 96 px" in invoke("data", "poses", "--task", "pose", "--window", "96").stdout
    boxes = invoke("data", str(tiny_data), "--task", "obb")
    assert boxes.exit_code == 1
    assert "for oriented boxes each row has a class and 4 corners" in boxes.output
