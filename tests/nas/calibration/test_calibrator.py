"""Calibrations: which runs are asked for, that none is trained twice, and one in earnest."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.calibration.assessment import assess
from nas.calibration.calibrator import FULL, Run, control_of, full_recipe, planned_runs, proxy_recipe
from nas.calibration.equal_cost import COST
from nas.calibration.report import to_markdown
from nas.calibration.result import RESULT_FILE, load_result
from nas.cli import cli
from nas.errors import ArtifactError, CalibrationError, OptionError, ProxyFailure
from nas.session.calibration import _as_started
from nas.space.variant import Variant
from nas.study.settings import PER_SEED
from nas.training.recipe import BANK_FINE_TUNE_LR0, FINE_TUNE_LR0, SCRATCH_LR0, Recipe

COMMON = Recipe(epochs=0, init="bank", imgsz=64)
SMALL = "slots: {backbone.down_p3: [SPConv, DynamicConv], neck.up_p3: [CARAFE]}"


@pytest.mark.parametrize(
    ("name", "init", "epochs", "start", "lr0", "mosaic"),
    [
        ("scratch-8", "scratch", 8, "near", SCRATCH_LR0, 1.0),
        ("baseline-8", "baseline", 8, "near", FINE_TUNE_LR0, 1.0),
        ("baseline-fresh-3", "baseline", 3, "fresh", FINE_TUNE_LR0, 1.0),
        ("bank-0", "bank", 0, "near", BANK_FINE_TUNE_LR0, 0.0),
        ("bank-fresh-12", "bank", 12, "fresh", BANK_FINE_TUNE_LR0, 0.0),
    ],
)
def test_names_of_proxies(name, init, epochs, start, lr0, mosaic):
    recipe = proxy_recipe(name, COMMON)
    assert (recipe.init, recipe.epochs, recipe.start, recipe.lr0, recipe.mosaic) == (init, epochs, start, lr0, mosaic)
    assert recipe.imgsz == 64


def test_proxies_of_other_images():
    assert [(r.imgsz, r.windows_at) for r in (proxy_recipe("bank-4@96", COMMON), proxy_recipe("bank-4", COMMON))] == [
        (96, 0), (64, 0),
    ]  # fmt: skip
    windows = proxy_recipe("bank-fresh-4@64/320", COMMON)
    assert (windows.imgsz, windows.windows_at, windows.epochs, windows.start) == (64, 320, 4, "fresh")
    assert (proxy_recipe("bank-0@96", windows).windows_at, proxy_recipe("bank-0", windows).windows_at) == (0, 320)
    full = full_recipe(windows, 40)
    assert (full.imgsz, full.windows_at) == (320, 0)  # full training has whole images


def test_full_training_from_trained_weights_is_fine_tuning_on_whole_images():
    weights = replace(COMMON, imgsz=64, windows_at=320, weights="w.pt", weights_digest="1")
    tuned = full_recipe(weights, 9, tuned=True)
    assert (tuned.init, tuned.init_digest, tuned.epochs, tuned.lr0) == ("w.pt", "1", 9, FINE_TUNE_LR0)
    assert (tuned.imgsz, tuned.windows_at, tuned.start, tuned.warmup_bias_lr) == (320, 0, "near", 0.0)
    assert tuned.mosaic == full_recipe(weights, 9).mosaic == 1.0


def test_both_kinds_of_full_training_are_run_and_compared(calibrator, fake_worker):
    """The fake's full training from a file knows the order, as that from scratch does."""
    weights = replace(COMMON, weights="w.pt", weights_digest="1")
    made = calibrator(tuned=full_recipe(weights, 12, tuned=True))
    made.run()
    starts = Counter((job.init, job.recipe.epochs) for job in fake_worker.jobs if job.recipe.epochs >= 12)
    assert starts["w.pt", 12] == starts[None, 20] - 1 == 14  # one more from scratch: the baseline of the bank
    assert not made.missing()
    calibrated = assess(made)
    both = ("full training from scratch", "full training from trained weights")
    assert [(row.order, row.full) for row in calibrated.rows if row.order in both] == [both[::-1], both]
    assert all(row.agreement.spearman > 0.9 for row in calibrated.rows if row.order in (*both, "bank-0"))
    assert calibrated.tuned_minutes == pytest.approx(6.0 * 13 / 60)
    text = to_markdown(calibrated)
    assert "From trained weights it takes 12 epochs" in text
    for kind in both:
        assert f"| {kind.removeprefix('full training ')} | {COST} | – |" in text


def test_fine_tuning_needs_weights_to_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(cli, ["calibrate", "quick", "--tune-epochs", "4"])
    assert ran.exit_code == 1
    assert "--tune-epochs 4 starts from trained weights: give them by --weights FILE.pt" in ran.output


@pytest.mark.parametrize("name", ["bank-4@100", "bank-4@0", "bank-4@64/64", "bank-4@320/64"])
def test_images_that_no_proxy_can_have(name):
    with pytest.raises(OptionError, match="sides have to be multiples of 32, and windows smaller"):
        proxy_recipe(name, COMMON)


@pytest.mark.parametrize(
    "name",
    [
        "", "bank", "bank-", "bank--1", "scratch-0", "baseline-0", "scratch-fresh-8", "file-2", "bank-2.5", "BANK-2",
        "bank-2@", "bank-2@64/",
    ],
)  # fmt: skip
def test_what_names_no_proxy(name):
    with pytest.raises(OptionError, match=r"cannot read the proxy .*: expected scratch-N"):
        proxy_recipe(name, COMMON)


def test_full_training_starts_from_scratch():
    full = full_recipe(COMMON, 40)
    assert (full.init, full.epochs, full.validations, full.lr0, full.mosaic) == ("scratch", 40, 5, SCRATCH_LR0, 1.0)
    assert full_recipe(COMMON, 2).validations == 2


def test_the_runs_that_are_asked_for(calibrator):
    c = calibrator(variants=4, seeds=2, full_seeds=1, proxies=("scratch-2", "bank-0")).calibration
    runs = planned_runs(c)
    controls = {control_of(c, v) for v in c.tested} - {()}
    assert Counter((r.proxy, r.seed, bool(r.controls)) for r in runs) == {
        ("bank-0", 0, False): 5,
        ("bank-0", 1, False): 5,
        ("bank-0", 0, True): len(controls),
        ("bank-0", 1, True): len(controls),
        ("scratch-2", 0, False): 5,
        ("scratch-2", 1, False): 5,
        (FULL, 0, False): 5,
    }
    assert [r.proxy for r in runs] == sorted((r.proxy for r in runs), key=["bank-0", "scratch-2", FULL].index)
    assert len({(r.proxy, r.seed, r.variant.id, r.controls) for r in runs}) == len(runs)
    assert runs[0].variant.is_baseline


def test_a_control_is_what_can_be_distilled_anew(calibrator):
    c = calibrator().calibration
    swaps = {"neck.up_p4": "CARAFE", "neck.down_n4": "SPConv", "neck.c2f_p3": "C2f_SPConv"}
    variant = Variant("yolov8", "n", tuple(sorted(swaps.items())))
    assert control_of(c, variant) == ("neck.c2f_p3", "neck.down_n4")
    assert control_of(c, Variant("yolov8", "n", (("neck.up_p4", "CARAFE"),))) == ()
    assert control_of(c, Variant("yolov8", "n")) == ()


def asked(fake) -> list[tuple]:
    """Return what was trained: recipe, variant, seed, what of the bank, and whether it is kept."""
    return [(j.recipe.init, j.recipe.epochs, j.swaps, j.seed, j.overlay, bool(j.save)) for j in fake.jobs]


def test_each_run_is_trained_once(calibrator, fake_worker, recorder):
    made = calibrator()
    made.run()
    runs = planned_runs(made.calibration)
    assert len(fake_worker.jobs) == len(runs) + 1  # and the baseline
    assert len(set(asked(fake_worker))) == len(runs) + 1
    assert len(fake_worker.distilled) == 3
    assert {j.proxy.seed for j in fake_worker.distilled} == {0, 1, 2}
    assert [(p, t) for _, _, p, t, _ in recorder.ended] == [(i + 1, len(runs)) for i in range(len(runs))]
    left = [sum(run.recipe.epochs + 1 / 3 for run in runs[i + 1 :]) for i in range(len(runs))]
    assert [run[-1] for run in recorder.ended] == pytest.approx(left, abs=1e-9)
    assert not made.missing()
    fake_worker.forget()
    calibrator().run()
    assert not fake_worker.jobs
    assert not fake_worker.distilled


def test_each_seed_inherits_from_its_own_baseline(calibrator, fake_worker):
    made = calibrator(proxies=("bank-0", "baseline-1", "scratch-2"), baselines=PER_SEED, workers=2)
    made.run()
    trained = {job.seed: job.save for job in fake_worker.jobs if job.save}
    assert sorted(trained) == [0, 1, 2]
    assert sum(bool(job.save) for job in fake_worker.jobs) == 3
    heirs = [job for job in fake_worker.jobs if job.recipe.init in ("bank", "baseline")]
    assert {(job.seed, job.init) for job in heirs} == set(trained.items())
    assert {(job.proxy.seed, job.proxy.init) for job in fake_worker.distilled} == set(trained.items())
    assert not made.missing()
    one = calibrator(proxies=("bank-0", "baseline-1", "scratch-2"))
    assert {(run.proxy, run.seed) for run, _ in one.missing()} == {
        (p, s) for p in ("bank-0", "baseline-1") for s in (1, 2)
    }


def test_a_calibration_goes_on_with_as_many_baselines_as_it_was_begun_with(calibrator, recorder):
    new = calibrator(baselines=PER_SEED)
    assert _as_started(new) is new
    old = calibrator()
    old.run()
    assert _as_started(new).calibration == old.calibration
    assert not _as_started(new).missing()
    assert "was started with one shared baseline" in recorder.said[-1]
    other = calibrator(baselines=PER_SEED, fingerprint="e" * 16)
    assert _as_started(other) is other  # nothing that is there applies
    new.run()
    assert _as_started(new) is new


@pytest.mark.parametrize(
    ("seed", "words"), [(0, r"^the baseline could not"), (1, r"^the baseline of seed 1: .*\nto calibrate .*`--one")]
)
def test_a_baseline_that_fails_says_of_which_seed(calibrator, fake_worker, monkeypatch, seed, words):
    train = fake_worker.run

    def run(self, job, on_epoch=None):
        if job.save and job.seed == seed:
            raise ProxyFailure("nan", "the loss was no longer a number")
        return train(self, job, on_epoch)

    monkeypatch.setattr(fake_worker, "run", run)
    with pytest.raises(ArtifactError, match=words):
        calibrator(baselines=PER_SEED).run()


def test_a_bank_run_is_assembled_from_its_own_seed(calibrator, fake_worker):
    made = calibrator(proxies=("bank-0",))
    made.run()
    folders = {job.seed: set() for job in fake_worker.jobs}
    for job in fake_worker.jobs:
        if job.recipe.init == "bank":
            labels = [Path(file).stem for file in job.overlay]
            if job.swaps:
                assert labels == [f"{slot}-{label}" for slot, label in job.swaps]
            else:
                assert all(label.endswith("-control") for label in labels)
            folders[job.seed] |= {Path(file).parent for file in job.overlay}
    assert all(len(found) == 1 for found in folders.values())
    assert len(set.union(*folders.values())) == 3


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"variants": 7}, {"bank", "scratch"}),
        ({"seeds": 4}, {"bank", "scratch"}),
        ({"full_seeds": 3}, {"scratch"}),
        ({"proxies": ("bank-0", "scratch-2", "baseline-1")}, {"baseline"}),
        ({"proxies": ("bank-0", "scratch-2", "bank-1")}, {"bank"}),
    ],
)
def test_what_is_there_is_not_trained_again(calibrator, fake_worker, change, trained):
    calibrator().run()
    before = set(asked(fake_worker))
    fake_worker.forget()
    larger = calibrator(**change)
    wanted = len(larger.missing())
    larger.run()
    now = asked(fake_worker)
    assert len(now) == wanted > 0
    assert not before & set(now)
    assert {init for init, *_ in now} == trained
    if "bank-1" in change.get("proxies", ()):
        assert not fake_worker.distilled  # it has the bank of bank-0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_calibration_goes_on(calibrator, fake_worker, workers):
    fake_worker.stop_at = 20
    with pytest.raises(KeyboardInterrupt):
        calibrator(workers=workers).run()
    stopped = calibrator()
    done = len(stopped.file.read())
    assert 19 - workers <= done <= 19
    runs = len(planned_runs(stopped.calibration))
    assert len(stopped.missing()) == runs - done
    fake_worker.forget()
    calibrator(workers=workers).run()
    assert len(fake_worker.jobs) == runs - done
    assert len(stopped.file.read()) == runs


def test_ctrl_c_while_a_bank_is_made(calibrator, fake_worker, monkeypatch):
    def work(self, job, on_progress=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fake_worker, "work", work)
        with pytest.raises(KeyboardInterrupt):
            calibrator().run()
    calibrator().run()
    assert not calibrator().missing()


def test_a_variant_that_fails_is_recorded_and_the_rest_goes_on(calibrator, fake_worker):
    fake_worker.fails = {"SPConv": ProxyFailure("nan", "the loss was no longer a number")}
    made = calibrator()
    made.run()
    assert not made.missing()
    failures = Counter(done.failure for done in made.file.read().values() if done.failure)
    with_it = sum("SPConv" in dict(v.swaps).values() for v in made.calibration.tested)
    assert failures == {
        "neck.down_n4=SPConv: the loss was no longer a number": 3 * with_it,  # its bank says so: nothing is trained
        "nan: the loss was no longer a number": (3 + 2) * with_it,
    }


@pytest.mark.parametrize("kind", ["died", "memory", "error"])
def test_what_the_machine_did_is_not_recorded(calibrator, fake_worker, kind):
    made = calibrator(proxies=("scratch-2",))
    fake_worker.fails = {"SPConv": ProxyFailure(kind, "out of luck")}
    made.run()
    assert {"SPConv" in dict(run.variant.swaps).values() for run, _ in made.missing()} == {True}
    fake_worker.fails = {}
    calibrator(proxies=("scratch-2",)).run()
    assert not made.missing()


def test_runs_of_other_data_or_versions_are_not_taken(calibrator, fake_worker):
    calibrator().run()
    every = len(planned_runs(calibrator().calibration))
    assert len(calibrator(fingerprint="e" * 16).missing()) == every
    assert len(calibrator(versions=(("swapnas", "2"),)).missing()) == every


def test_a_file_of_something_else(calibrator):
    made = calibrator()
    made.folder.mkdir(parents=True)
    made.file.path.write_text("something else\n")
    with pytest.raises(CalibrationError, match=r"runs.jsonl:1 is not a finished run"):
        made.run()


def test_keys_tell_runs_apart(calibrator):
    """The same from one start to the next, whatever the proxy is called; no two runs share one."""
    made = calibrator(proxies=("bank-0", "bank-fresh-0", "baseline-1", "baseline-fresh-1", "scratch-1"))
    keys = [made.key(run) for run in planned_runs(made.calibration)]
    assert len(set(keys)) == len(keys)
    assert keys == [made.key(run) for run in planned_runs(made.calibration)]
    run = planned_runs(made.calibration)[0]
    assert made.key(Run("another name", run.recipe, run.variant, run.seed)) == made.key(run)


@pytest.mark.slow
def test_a_calibration_in_earnest(taught, own_cache, tmp_path, monkeypatch):
    """As a user starts it, with the trained baseline at hand: trained, judged, and gone on with at no cost."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(taught.weights.folder, "studies/weights")
    Path("small.yaml").write_text(SMALL)
    options = ["calibrate", "small.yaml", "--data", str(taught.yaml), "--variants", "3", "--seeds", "2"]
    options += ["--full-epochs", "10", "--full-seeds", "1", "--proxy", "bank-0", "--imgsz", "64", "--batch", "8"]
    options += ["--base-epochs", str(taught.recipe.base_epochs), "--bank-epochs", "1", "--device", "cpu"]
    options += ["--workers", str(min(2, os.cpu_count() or 1))]
    result = CliRunner().invoke(cli, options)
    assert result.exit_code == 0, result.output
    assert "nas search small" in result.stdout
    assert len(list(Path("studies/weights").glob("baseline-*.pt"))) == 2  # the one that was there, and a further one
    folder = Path("studies/small.calibration")
    body = json.loads((folder / RESULT_FILE).read_text())
    assert body["drops"]["backbone.down_p3"] > 0.3
    assert any(x > 0 for row in body["full"]["map"].values() for x in row)
    calibrated = load_result(folder / RESULT_FILE)
    assert (calibrated.proxy, calibrated.recipe.init, calibrated.recipe.epochs) == ("bank-0", "bank", 0)
    assert (calibrated.fingerprint, calibrated.baselines) == (taught.fingerprint, PER_SEED)
    assert (folder / "calibration.svg").read_text(encoding="utf-8").startswith("<svg ")
    lines = (folder / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (4 + 1) + 4  # of down_p3 alone there is a control
    again = CliRunner().invoke(cli, [*options, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == body
    assert (folder / "runs.jsonl").read_text().splitlines() == lines


def test_every_training_can_go_on(calibrator, fake_worker, tmp_path):
    calibrator().run()
    files = [Path(job.checkpoint) for job in fake_worker.jobs]
    assert {file.parent for file in files} == {tmp_path / "studies" / "weights" / "running"}
    assert len(set(files)) == len(files)
