"""`nas data` after a study has trained a baseline: the levels that its assigner uses."""

from __future__ import annotations

import json

from click.testing import CliRunner

from nas.cli import cli
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
