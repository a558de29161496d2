"""Full trainings are the host's own, one row each, and survive SIGKILL."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ultralytics

from nas.data.dataset import load, write_resolved
from nas.full.store import FullRuns

YOLO = ultralytics.YOLO
_LOSSES = ("train/box_loss", "train/cls_loss", "train/dfl_loss")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return [
            {key.strip(): value for key, value in row.items() if key.strip() not in ("time", "")}
            for row in csv.DictReader(file)
        ]


@pytest.mark.slow
def test_the_baseline_trains_as_the_hosts_own_script_does(full_study, training, boxes_data, tmp_path):
    given = ("batch=16", "lr0=0.01", "optimizer=AdamW", "plots=False", "amp=False")
    study = full_study(data=boxes_data)
    made = training(study, trial=0, epochs=2, arguments=given)
    (run,) = made.run()
    data = write_resolved(load(boxes_data), tmp_path / "data")
    theirs = YOLO("yolov8n.yaml").train(
        data=str(data), epochs=2, imgsz=64, batch=16, lr0=0.01, optimizer="AdamW", plots=False, amp=False, seed=0,
        device="cpu", project=str(tmp_path), name="stock", verbose=False,
    )  # fmt: skip
    assert rows_of(Path(run.folder)) == rows_of(tmp_path / "stock")
    assert float(rows_of(Path(run.folder))[-1][_LOSSES[0]]) > 0
    scores = run.scores
    assert (scores.precision, scores.recall, scores.map50, scores.map) == pytest.approx(theirs.box.mean_results())
    assert [c.name for c in scores.classes] == ["square", "disc"]
    assert [c.map for c in scores.classes] == pytest.approx([theirs.box.maps[0], theirs.box.maps[1]])
    assert len(run.curve) == 2
    assert run.latency_ms > 0
    assert run.gflops == pytest.approx(8.9, abs=0.1)
    assert set(scores.sizes) == {"small", "medium", "large"}
    assert scores.sizes["large"] is None
    # Asked for again, it is there; with another epoch it is another training.
    assert training(study, trial=0, epochs=2, arguments=given).run() == [run]
    assert training(study, trial=0, epochs=3, arguments=given).wanted[0].group != run.group


KILLED = """
import sys
from pathlib import Path
from nas.cli.options import open_study, prepare
prepare()
from nas.full.arguments import FullOptions
from nas.full.session import FullTraining
from nas.study.location import locate
from nas.study.study import Study

class Silent:
    def note(self, text): print(text, flush=True)
    def epoch(self, run, last): print(f"epoch {last.epoch}", flush=True)

if __name__ == "__main__":
    study = Study.load(locate("s", sys.argv[1]))
    options = FullOptions(
        trial=1, epochs=30, imgsz=64, device="cpu",
        arguments=("batch=8", "plots=False", "warmup_epochs=0", "amp=False", "val=False"),
    )
    FullTraining.open(Path(sys.argv[2]), study, options, Silent()).run()
"""


def resumptions(folder: Path) -> int:
    """Return how often the trainings below a folder have been resumed."""
    return sum(log.read_text(encoding="utf-8").count("Resuming training") for log in folder.rglob("train.log"))


def start_and_kill(script: Path, url: str, cache: Path, resumed: int) -> None:
    """Start the training in a process, and kill that, and it alone, after an epoch that it has trained itself."""
    process = subprocess.Popen(
        [sys.executable, str(script), url, str(cache)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch ") and resumptions(script.parent) == resumed:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_training_killed_twice_ends_with_its_epochs_and_one_row(full_study, training, own_cache, tmp_path):
    study = full_study()
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    for resumed in (0, 1):
        start_and_kill(script, f"sqlite:///{tmp_path / 's.db'}", own_cache, resumed)
        time.sleep(2.5)  # the training process looks for its parent each second
    (stored,) = FullRuns(study.location).read()
    assert stored.status == "running"
    given = ("batch=8", "plots=False", "warmup_epochs=0", "amp=False", "val=False")
    made = training(study, trial=1, epochs=30, arguments=given)
    (run,) = made.run()
    assert made.observer.said[1].startswith("resuming ")
    assert run.status == "done"
    assert run.attempts == 3
    assert [epoch.epoch for epoch in run.curve] == list(range(1, 31))
    assert FullRuns(study.location).read() == [run]
    assert resumptions(Path(run.folder)) == 2
    assert run.seconds > stored.seconds
