"""A calibration with full trainings that exist: it makes none, and compares the proxies with these."""

from __future__ import annotations

import numpy as np
import pytest
from full_trainings import run_of

from nas.calibration.assessment import assess
from nas.calibration.calibrator import FULL
from nas.calibration.given import GivenFull
from nas.errors import CalibrationError
from nas.full.ranking import given_full


@pytest.fixture
def given(ranked_study) -> GivenFull:
    """Return the full trainings of five variants under two common seeds."""
    modules = (("up", "CARAFE"), ("up", "DySample"), ("down", "SPConv"), ("c2f", "C2f_SPConv"))
    study = ranked_study([({}, "done", 0.4, 8.0), *(({f"neck.{s}_*": m}, "done", 0.4, 8.0) for s, m in modules)])
    runs = []
    for k, trial in enumerate(study.trials()):
        runs += [run_of(trial, 0.5 + 0.01 * k + 0.001 * seed, seed) for seed in (1, 3)]
        runs += [run_of(trial, 0.9, 7)] * (k == 0)  # no other variant has this seed
    runs.append(run_of(study.trials()[0], 0.1, model="scaled-4.00", kind="scaled"))
    # Newer ones, with other arguments, of two variants alone: they are not enough, and do not count.
    runs += [run_of(trial, 0.1, group="5e6f7a8b", arguments={"batch": 32}) for trial in study.trials()[:2]]
    few = given_full(study, runs[-2:])
    assert len(few.variants) == 2
    assert not few.is_enough
    return given_full(study, runs)


def test_full_trainings_of_a_study_are_taken(calibrator, fake_worker, given):
    assert (len(given.variants), given.seeds) == (5, 2)
    assert given.variants[0].is_baseline
    made = calibrator(variants=4, full_seeds=2, given=given)
    made.run()
    assert not [job for job in fake_worker.jobs if job.recipe == made.calibration.full]
    found = assess(made)
    assert found.full == pytest.approx(np.array([[0.501 + 0.01 * k, 0.503 + 0.01 * k] for k in range(5)]))
    assert found.variants == given.variants
    assert found.to_json()["calibration"]["full_from"] == given.name
    assert "given" not in found.to_json()["calibration"]
    before = len(fake_worker.jobs)
    calibrator(variants=4, full_seeds=2, given=given).run()
    assert len(fake_worker.jobs) == before
    # Its own full trainings are others.
    own = calibrator(variants=4, full_seeds=2)
    own.run()
    assert [job for job in fake_worker.jobs if job.recipe == own.calibration.full]
    own = calibrator(variants=4, full_seeds=3)
    assert {run.proxy for run, _ in own.missing()} >= {FULL}


def test_too_few_are_refused(given):
    given.check("yolov8", "n")
    with pytest.raises(CalibrationError, match="of yolov8n, and the space of yolov8s"):
        given.check("yolov8", "s")
    few = GivenFull(given.name, given.key, 2, 64, 2, given.variants[:3], given.results)
    with pytest.raises(CalibrationError, match="of 3 variants under the same seeds"):
        few.check("yolov8", "n")
    none = GivenFull(given.name, "", 2, 64, 0, (), {})
    with pytest.raises(CalibrationError, match="have no baseline"):
        none.check("yolov8", "n")
