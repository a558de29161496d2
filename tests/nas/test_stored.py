"""What an earlier version stored is read, resumed and ranked by this one.

`fixtures/stored-by-169e7c9.tar.xz` was made by commit 169e7c9, where `nas` was one flat folder: images of 64 px
(`boxes`), a space, and what these commands stored, run in a folder that is called /data in the files:

    nas search space.yaml --data boxes/data.yaml --imgsz 64 --batch 8 --base-epochs 20 --bank-epochs 1 --epochs 1 \
        --trials 3 --confirm 0 --study old
    nas rank old --json > rank.json
    nas effects old --json > effects.json
    nas calibrate space.yaml --data boxes/data.yaml --imgsz 64 --batch 8 --base-epochs 20 --bank-epochs 1 --variants 3 \
        --seeds 2 --full-seeds 2 --full-epochs 20 --proxy bank-0 --proxy bank-1 --workers 1 --name oldcal

`own.pt` is a pickled ChannelScale(4) of `my_block.py`. To keep the file small, the convolutions of the trained
baselines are zeros.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from instant_worker import InstantTrainer, RecordingObserver

from nas.cli import cli
from nas.session.options import SearchOptions
from nas.session.search import Session
from nas.study.location import locate
from nas.study.study import Study

ARCHIVE = Path(__file__).parent / "fixtures" / "stored-by-169e7c9.tar.xz"
SETTINGS = (
    "--data", "boxes/data.yaml", "--imgsz", "64", "--batch", "8", "--base-epochs", "20", "--bank-epochs", "1",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return the folder in which everything was stored, as the working folder, and let versions be those of then."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    versions = Study.load(locate("old")).settings.versions
    for module in ("nas.session.settings", "nas.session.calibration", "nas.search.runner"):
        monkeypatch.setattr(f"{module}.current_versions", lambda: versions)
    return tmp_path


def rounded(text: str) -> object:
    """Return JSON with 12 digits of each number: sums in another order differ in the last ones."""
    return json.loads(text, parse_float=lambda number: float(f"{float(number):.12g}"))


def printed(*command: str) -> str:
    run = CliRunner().invoke(cli, command)
    assert run.exit_code == 0, run.output
    return run.stdout


class Trainer(InstantTrainer):
    """Trains at once, and keeps what it was given."""

    def __init__(self) -> None:
        self.jobs = []

    def run(self, job, on_epoch=None):
        self.jobs.append(job)
        return super().run(job, on_epoch)


def test_a_study_is_ranked_as_before(folder):
    now, before = json.loads(printed("rank", "old", "--json")), json.loads((folder / "rank.json").read_text())
    assert now == before
    now, before = rounded(printed("effects", "old", "--json")), rounded((folder / "effects.json").read_text())
    assert now == before
    assert "old" in printed("studies")


def test_a_study_is_resumed_and_starts_from_the_stored_baseline_and_bank(folder):
    options = SearchOptions(study="old", data="boxes/data.yaml", trials=2)
    session, observer, trainer = Session.open(folder / "cache", options), RecordingObserver(), Trainer()
    session.run(observer, [trainer])
    assert len(trainer.jobs) == 2
    for job in trainer.jobs:  # nothing is trained or distilled again: the files of then are found under their names
        assert not job.save
        assert Path(job.init).name == "baseline-d6d46804509dc9b6.pt"
        assert {Path(file).parent.name for file in job.overlay} == {"bank-c220ce0567d403e1"}
        assert all(Path(file).is_file() for file in (job.init, *job.overlay))
    done = [t for t in Study.load(locate("old")).trials() if t.status == "done"]
    assert len({t.variant for t in done}) == 5
    rows = json.loads(printed("rank", "old", "--json"))["rows"]
    assert len(rows) == 5


def test_other_versions_are_refused_by_name(folder, monkeypatch):
    monkeypatch.setattr("nas.session.settings.current_versions", lambda: (("torch", "1.0"),))
    run = CliRunner().invoke(cli, ["search", "--study", "old", "--data", "boxes/data.yaml", "--trials", "1"])
    assert run.exit_code == 1
    assert "torch" in run.output


def test_a_calibration_is_complete_and_its_proxy_is_used(folder, fake_worker, monkeypatch):
    monkeypatch.setattr("nas.session.calibration.ProxyWorker", fake_worker)
    counts = ("--variants", "3", "--seeds", "2", "--full-seeds", "2", "--full-epochs", "20")
    before = json.loads((folder / "studies" / "oldcal.calibration" / "calibration.json").read_text())
    proxies = ("--proxy", "bank-0", "--proxy", "bank-1", "--workers", "1", "--name", "oldcal", "--device", "cpu")
    now = json.loads(printed("calibrate", "space.yaml", *counts, *SETTINGS, *proxies, "--json"))
    assert not fake_worker.jobs
    assert not fake_worker.distilled
    assert now["chosen"] == before["chosen"]
    options = SearchOptions(space="space.yaml", data="boxes/data.yaml", study="by", proxy="oldcal", device="cpu")
    settings = Session.open(folder / "cache", options).study.settings
    assert (settings.score, settings.recipe.epochs) == ("map", 0)
    assert settings.calibrated["spearman"] == before["chosen"]["spearman"]


def test_an_own_module_is_unpickled(folder, monkeypatch):
    import torch

    monkeypatch.setenv("NAS_MODULES", str(folder))
    module = torch.load("own.pt", weights_only=False)
    assert type(module).__module__ == "nas.own.my_block_4f16041e"
    assert module(torch.ones(1, 4, 2, 2)).shape == (1, 4, 2, 2)
