"""Baselines and banks on the disk: made once, found again by what decides them, and never taken for another's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stock import tensor_count

from nas.bank.artifacts import ArtifactStore
from nas.bank.jobs import CONTROL, Bank, Candidate, DistilJob, Distilled
from nas.bank.store import SwapBank, candidates_of
from nas.errors import ArtifactError, BaselineNotTrained, ProxyFailure
from nas.model.render import render
from nas.space.bases import load_base
from nas.space.space_file import read_space
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

SPACE = """
slots:
  neck.up_p3: [CARAFE, DySample]
  neck.down_*: {choices: [SPConv], tie: true}
"""
EVERY = [
    ("neck.up_p3", "CARAFE"),
    ("neck.up_p3", "DySample"),
    ("neck.down_n4", "SPConv"),
    ("neck.down_n4", CONTROL),
    ("neck.down_n5", "SPConv"),
    ("neck.down_n5", CONTROL),
]
RECIPE = Recipe(epochs=2, init="bank", base_epochs=3, bank_epochs=2)


class FakeWorker:
    """Answers at once, and writes what a training or a distillation would write."""

    def __init__(self, final: float = 0.4, fails: str = "") -> None:
        self.final = final
        self.fails = fails
        self.jobs: list[ProxyJob] = []
        self.distilled: list[DistilJob] = []

    def run(self, job, on_epoch=None) -> ProxyResult:
        self.jobs.append(job)
        if self.fails:
            raise ProxyFailure("died", self.fails)
        Path(job.save).write_bytes(f"baseline {job.seed}".encode())
        validation = Validation(self.final, self.final, 2.0)
        curve = tuple(EpochScore(e + 1, 3.0, 1.0, validation) for e in range(job.recipe.epochs or 1))
        for score in curve:
            on_epoch(score)
        return ProxyResult(curve, validation, (355, 355), 60.0)

    def work(self, job, on_progress=None) -> Bank:
        self.distilled.append(job)
        if self.fails:
            raise ProxyFailure("died", self.fails)
        on_progress((1, 1))
        found = []
        for c in job.candidates:
            if c.label == "CARAFE":
                found.append(Distilled(c, "", 1.0, float("nan"), "its distillation diverged"))
                continue
            file = f"{c.slot}-{c.label}.pt"
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            (Path(job.folder) / file).write_bytes(f"{c.slot} {c.label} {job.proxy.seed}".encode())
            found.append(Distilled(c, file, 1.0, 0.25))
        drops = tuple((c.slot, 0.0004 if c.slot == "neck.down_n5" else 0.1) for c in job.candidates)
        return Bank(0.39, drops, tuple(found), 30.0)


class Refuses:
    """A worker that must not be asked."""

    def run(self, job, on_epoch=None):
        raise AssertionError("it trains")

    def work(self, job, on_progress=None):
        raise AssertionError("it distils")


@pytest.fixture
def make(tmp_path, recorder):
    def make(worker=None, **changes) -> ArtifactStore:
        return ArtifactStore(
            **{
                "folder": tmp_path / "weights",
                "space": read_space(SPACE, "s.yaml", "s"),
                "data": Path("data.yaml"),
                "fingerprint": "f" * 16,
                "versions": (("swapnas", "1"), ("torch", "2")),
                "seed": 0,
                "worker": worker or FakeWorker(),
                "observer": recorder,
                "scratch": tmp_path / "run",
                **changes,
            }
        )

    return make


def test_a_space_says_what_its_bank_holds(make):
    assert [(c.slot, c.label) for c in candidates_of(make().space)] == EVERY


def test_a_baseline_is_trained_once(make, recorder):
    worker = FakeWorker()
    made = make(worker).baseline(RECIPE)
    (job,) = worker.jobs
    assert (job.recipe.init, job.recipe.epochs, job.init, job.swaps, job.seed) == ("scratch", 3, None, (), 0)
    assert (made.map, len(made.curve), made.cpu_seconds) == (0.4, 3, 60.0)
    assert recorder.said == ["baseline training of 3"]
    assert make(Refuses()).baseline(RECIPE) == made
    # Settings of what comes after the baseline do not change it.
    for same in ({"epochs": 9}, {"init": "baseline"}, {"bank_epochs": 9}, {"start": "fresh"}, {"lr0": 0.1}):
        assert make(Refuses()).baseline(replace(RECIPE, **same)) == made


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"fingerprint": "e" * 16},
        {"versions": (("swapnas", "2"), ("torch", "2"))},
        {"space": read_space("scale: s\nslots: {neck.up_p3: [CARAFE]}", "s.yaml", "s")},
    ],
)
def test_what_decides_a_baseline_is_in_its_name(make, other):
    first = make().baseline(RECIPE)
    worker = FakeWorker()
    second = make(worker, **other).baseline(RECIPE)
    assert second.file != first.file
    assert len(worker.jobs) == 1
    assert make(Refuses()).baseline(RECIPE) == first
    assert make().bank(RECIPE, 0).folder != make(**other).bank(RECIPE, 0).folder


@pytest.mark.parametrize("change", [{"base_epochs": 4}, {"imgsz": 96}, {"batch": 4}, {"base_lr0": 0.01}])
def test_another_recipe_is_another_baseline(make, change):
    assert make().baseline(RECIPE).file != make().baseline(replace(RECIPE, **change)).file


def test_another_space_of_the_same_base_shares_it(make):
    made = make().baseline(RECIPE)
    other = make(Refuses(), space=read_space("slots: {neck.up_p4: [DySample]}", "o.yaml", "o"))
    assert other.baseline(RECIPE) == made


def test_a_training_that_was_killed_is_begun_again(make):
    made = make().baseline(RECIPE)
    made.file.with_suffix(".json").unlink()
    worker = FakeWorker()
    assert make(worker).baseline(RECIPE) == made
    assert len(worker.jobs) == 1


def test_a_training_that_fails_leaves_nothing(make):
    with pytest.raises(ArtifactError, match="the baseline could not be trained: the training process died"):
        make(FakeWorker(fails="the training process died")).baseline(RECIPE)
    worker = FakeWorker()
    make(worker).baseline(RECIPE)
    assert len(worker.jobs) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"curve": [{"epoch": 1}], "cpu_seconds": 1}'])
def test_an_unreadable_description_is_a_clear_error(make, text):
    about = make().baseline(RECIPE).file.with_suffix(".json")
    about.write_text(text)
    with pytest.raises(ArtifactError, match=rf"cannot read .*{about.name}.*delete it, and it will be made again"):
        make(Refuses()).baseline(RECIPE)


def test_a_folder_that_cannot_be_written(make, tmp_path):
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot write to .*weights"):
        make(Refuses()).baseline(RECIPE)


def test_a_bank_is_distilled_once(make, recorder):
    worker = FakeWorker()
    made = make(worker).bank(RECIPE, 0)
    (job,) = worker.distilled
    assert list(made.candidates) == EVERY
    assert job.proxy.init == str(make(Refuses()).baseline(RECIPE).file)
    assert job.proxy.recipe.init == "baseline"
    assert recorder.said == ["baseline training of 3", "distilling 6"]
    assert (made.teacher_map, made.cpu_seconds, made.idle_slots) == (0.39, 30.0, ["neck.down_n5"])
    again = make(Refuses()).bank(replace(RECIPE, epochs=0, lr0=0.1), 0)
    assert again.folder == made.folder
    assert list(again.candidates) == EVERY
    assert [c.candidate for c in again.failures] == [Candidate("neck.up_p3", "CARAFE")]
    assert again.problem([EVERY[1], EVERY[0]]) == "neck.up_p3=CARAFE: its distillation diverged"
    assert again.problem(EVERY[1:]) == ""
    assert again.files(EVERY[1:3]) == tuple(str(made.folder / f"{s}-{c}.pt") for s, c in EVERY[1:3])
    assert again.error(EVERY[1:]) == 0.25
    assert again.error([]) is None


@pytest.mark.parametrize(
    "change", [{"bank_epochs": 3}, {"bank_lr0": 0.1}, {"start": "fresh"}, {"batch": 4}, {"base_epochs": 4}]
)
def test_another_recipe_is_another_bank(make, change):
    assert make().bank(RECIPE, 0).folder != make().bank(replace(RECIPE, **change), 0).folder


def test_another_seed_is_another_bank_of_the_same_baseline(make):
    worker = FakeWorker()
    first, second = make(worker).bank(RECIPE, 0), make(worker).bank(RECIPE, 1)
    assert first.folder != second.folder
    assert len(worker.jobs) == 1


def test_only_what_a_bank_lacks_is_distilled(make, recorder):
    part, whole = FakeWorker(), FakeWorker()
    make(part).bank(RECIPE, 0, (Candidate(*EVERY[1]), Candidate(*EVERY[2])))
    made = make(whole).bank(RECIPE, 0)
    assert [(c.slot, c.label) for c in whole.distilled[0].candidates] == [
        EVERY[0], EVERY[3], EVERY[4], EVERY[5]
    ]  # fmt: skip
    assert set(made.candidates) == set(EVERY)
    assert made.cpu_seconds == 60.0
    assert made.drops.keys() == {slot for slot, _ in EVERY}
    assert make(Refuses()).bank(RECIPE, 0).candidates.keys() == made.candidates.keys()


def test_a_missing_file_is_distilled_again(make):
    made = make().bank(RECIPE, 0)
    (made.folder / made.candidates[EVERY[1]].file).unlink()
    worker = FakeWorker()
    again = make(worker).bank(RECIPE, 0)
    assert [(c.slot, c.label) for c in worker.distilled[0].candidates] == [EVERY[1]]
    assert again.candidates.keys() == made.candidates.keys()


def test_a_changed_file_is_refused(make):
    made = make().bank(RECIPE, 0)
    file = made.folder / made.candidates[EVERY[2]].file
    file.write_bytes(b"other tensors")
    with pytest.raises(ArtifactError, match=r"is not what was distilled \(neck.down_n4=SPConv\): delete it"):
        make(Refuses()).bank(RECIPE, 0)
    file.unlink()
    make().bank(RECIPE, 0)


def test_a_bank_of_something_else_is_refused(make):
    index = make().bank(RECIPE, 0).folder / "bank.json"
    body = json.loads(index.read_text())
    body["about"]["data"] = "e" * 16
    index.write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=rf"a bank of something else \(data: {'e' * 16}, not {'f' * 16}\): move it"):
        make(Refuses()).bank(RECIPE, 0)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "about"])
def test_an_unreadable_bank_is_a_clear_error(make, text):
    index = make().bank(RECIPE, 0).folder / "bank.json"
    index.write_text(json.dumps({"about": json.loads(index.read_text())["about"]}) if text == "about" else text)
    with pytest.raises(ArtifactError, match=r"cannot read .*bank.json.*delete it"):
        make(Refuses()).bank(RECIPE, 0)


def test_the_index_is_json_for_any_reader(make):
    """Also where a candidate that has diverged has no error."""
    made = make().bank(RECIPE, 0)

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    json.loads((made.folder / "bank.json").read_text(), parse_constant=refuse)


def test_an_interrupted_distillation_leaves_the_bank_as_it_was(make):
    class Stops(FakeWorker):
        def work(self, job, on_progress=None):
            raise KeyboardInterrupt

    first = make().bank(RECIPE, 0, (Candidate(*EVERY[1]),))
    with pytest.raises(KeyboardInterrupt):
        make(Stops()).bank(RECIPE, 0)
    with pytest.raises(ArtifactError, match="the bank could not be distilled: it died"):
        make(FakeWorker(fails="it died")).bank(RECIPE, 0)
    assert make(Refuses()).bank(RECIPE, 0, (Candidate(*EVERY[1]),)).candidates == first.candidates


def test_a_baseline_that_has_not_learnt_is_not_asked(make):
    with pytest.raises(BaselineNotTrained, match=r"has not learnt \(mAP50-95 0.010 after 3 epochs\).*--init scratch"):
        make(FakeWorker(final=0.01)).bank(RECIPE, 0)


def test_what_a_job_inherits(make):
    bank = make().bank(RECIPE, 0)
    weights = make(Refuses())
    file = str(weights.baseline(RECIPE).file)
    swaps = EVERY[1:3]
    assert weights.initial_files(replace(RECIPE, init="scratch"), swaps, None) == {"init": None}
    assert weights.initial_files(replace(RECIPE, init="/x.pt"), swaps, None) == {"init": "/x.pt"}
    assert weights.initial_files(replace(RECIPE, init="baseline"), swaps, None) == {"init": file, "overlay": ()}
    assert weights.initial_files(RECIPE, swaps, bank) == {"init": file, "overlay": bank.files(swaps)}


def test_who_comes_second_waits(make, recorder, tmp_path):
    made = make().baseline(RECIPE)
    code = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'a+')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(1.2)\n"
    )
    lock = made.file.with_name(f"{made.file.name}.lock")
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        recorder.said.clear()
        assert make(Refuses()).baseline(RECIPE) == made
        other.wait()
    assert recorder.said == [f"another worker or search is making {made.file.name}; waiting for it"]


def test_a_trained_file_is_taken_as_it_is(taught, tmp_path):
    """With no epochs of its own, a baseline is the file that was brought, validated."""
    weights = taught.weights_in(tmp_path / "own")
    recipe = replace(taught.recipe, weights=str(taught.baseline.file), weights_digest="0" * 64, base_epochs=0)
    made = weights.baseline(recipe)
    assert made.file != taught.baseline.file
    assert [score.epoch for score in made.curve] == [0]
    assert made.map == pytest.approx(taught.map_of(), abs=1e-4)  # as who inherits from it: statistics are refreshed
    assert made.map >= taught.baseline.map - 0.03
    assert weights.baseline_key(replace(recipe, weights_digest="1" * 64)) != weights.baseline_key(recipe)


def test_a_file_of_other_classes_is_not(taught, tmp_path):
    import torch

    from nas.model.host import build
    from nas.model.transfer import named_state

    state = build(render(Variant("yolov8", "n")).yaml, "n", 5).state_dict()
    torch.save(named_state(state, load_base("yolov8")), tmp_path / "five.pt")
    weights = taught.weights_in(tmp_path / "own")
    recipe = replace(taught.recipe, weights=str(tmp_path / "five.pt"), base_epochs=0)
    said = rf"five.pt fits 3\d\d of the {tensor_count()} tensors.*other classes, or another task; give --base-epochs"
    with pytest.raises(ArtifactError, match=said):
        weights.baseline(recipe)
    with pytest.raises(ArtifactError, match="other classes"):  # and not taken the next time
        weights.baseline(recipe)


def test_a_bank_in_earnest(taught, bank):
    assert bank.teacher_map == pytest.approx(taught.baseline.map, abs=0.02)
    assert not bank.failures
    assert "neck.c2f_n5" in bank.idle_slots
    assert "backbone.down_p3" not in bank.idle_slots
    refusing = replace(taught.weights_in(bank.folder.parent), worker=Refuses())
    assert refusing.bank(taught.recipe_of_bank, 0) == bank
    assert isinstance(bank, SwapBank)


def test_a_single_candidate_that_raises_is_tried_again_by_the_next_search(make):
    """Beside others that do not, it is the candidate's; alone, it may be the machine's."""

    class Raises(FakeWorker):
        def work(self, job, on_progress=None):
            made = super().work(job, on_progress)
            spoilt = [
                replace(c, failure="its distillation failed: it raised", raised=True) if c.failure else c
                for c in made.candidates
            ]
            return replace(made, candidates=tuple(spoilt))

    wanted = (Candidate("neck.up_p3", "CARAFE"),)
    worker = Raises()
    for times in (1, 2):
        assert [c.failure for c in make(worker).bank(RECIPE, 0, wanted).failures] == [
            "its distillation failed: it raised"
        ]
        assert len(worker.distilled) == times
    assert len(make(worker).bank(RECIPE, 0).failures) == 1
    assert len(make(Refuses()).bank(RECIPE, 0, wanted).failures) == 1


def test_seeds_may_have_baselines_of_their_own(make):
    """And then banks of those, so that what the trained baseline adds to the error is in it."""
    worker = FakeWorker()
    weights = make(worker, per_seed=True)
    files = {weights.baseline(RECIPE, seed).file for seed in (0, 1, 2)}
    assert [job.seed for job in worker.jobs] == [0, 1, 2]
    assert len(files) == 3
    assert weights.baseline(RECIPE).file == weights.baseline(RECIPE, 0).file == make(Refuses()).baseline(RECIPE).file
    bank = weights.bank(RECIPE, 2)
    assert worker.distilled[0].proxy.init == str(weights.baseline(RECIPE, 2).file)
    assert bank.folder != make(FakeWorker()).bank(RECIPE, 2).folder
    assert weights.initial_files(RECIPE, (), None, 1)["init"] == str(weights.baseline(RECIPE, 1).file)
    assert make(Refuses()).initial_files(RECIPE, (), None, 1)["init"] == str(weights.baseline(RECIPE).file)
