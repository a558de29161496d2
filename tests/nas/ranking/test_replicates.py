"""Several seeds as one: means that can be compared, and rows that say what they rest on."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.calibration.result import CalibrationResult
from nas.ranking.rank import export_rows, rank_trials
from nas.ranking.replicates import paired_mean, pool_replicates
from nas.report.console import ranking_table
from nas.report.ranking_notes import conclusion, ranking_notes
from nas.space.space_file import load_space
from nas.study.objective import Prior
from nas.study.settings import PER_SEED
from nas.study.trial import Trial, variants_spent
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

SPACE = load_space("quick")
SWAP, OTHER = {"neck.up_*": "CARAFE"}, {"neck.c2f_*": "C2f_SPConv"}


def run(swaps: dict[str, str], seed: int, score: float, status: str = "done", number: int = 0, **given) -> Trial:
    full = {**SPACE.baseline(), **swaps}
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),)
    return Trial(number, SPACE.variant(full), full, status, seed=seed, gflops=8.0, curve=curve, seconds=3.0, **given)


def numbered(*trials: Trial) -> list[Trial]:
    return [replace(t, number=i) for i, t in enumerate(trials)]


TRIALS = numbered(
    run({}, 0, 0.40), run(SWAP, 0, 0.41), run(OTHER, 0, 0.39),
    run({}, 1, 0.50), run(SWAP, 1, 0.52), run({}, 2, 0.45), run(SWAP, 2, 0.465), run({}, 7, 0.41),
)  # fmt: skip


def test_means_are_set_against_the_same_seeds():
    base, swapped, other = pool_replicates(TRIALS)
    assert base.map == pytest.approx(0.44)
    assert swapped.map == pytest.approx(0.44 + 0.015)
    assert other.map == pytest.approx(0.44 - 0.01)
    assert [t.number for t in (base, swapped, other)] == [0, 1, 2]
    assert [t.seeds for t in (base, swapped, other)] == [4, 3, 1]
    assert paired_mean({0: 0.4, 1: 0.6}, {5: 0.1}) == 0.5
    alone = pool_replicates(TRIALS[:3])
    assert alone == TRIALS[:3]  # with one seed each there is nothing to pool


def test_what_stands_for_a_variant():
    trials = numbered(run(SWAP, 0, 0, "interrupted"), run(SWAP, 0, 0, "failed"), run(OTHER, 0, 0, "running"),
                      run({}, 0, 0.4), run(SWAP, 1, 0.4))  # fmt: skip
    assert [(t.number, t.status) for t in pool_replicates(trials)] == [(4, "done"), (2, "running"), (3, "done")]
    assert variants_spent(trials) == 3
    assert variants_spent(trials[:1]) == 0


def test_a_row_says_what_it_rests_on():
    rows = {r.trial.describe(): r for r in rank_trials(TRIALS, 0.02)}
    swapped, base = rows["neck.up_*=CARAFE"], rows["baseline"]
    assert (swapped.seeds, len(swapped.runs), base.seeds) == (3, 3, 4)
    assert swapped.delta_map == pytest.approx(0.015)
    assert swapped.interval[0] < 0.015 < swapped.interval[1]
    assert swapped.map_interval[0] < 0.465 < swapped.map_interval[1]
    assert base.verdict == "baseline"
    assert rows["neck.c2f_*=C2f_SPConv"].seeds == 1
    exported = {e["swaps"]: e for e in export_rows(list(rows.values()))}
    assert exported["baseline"]["seed_list"] == "0 1 2 7"
    assert exported["neck.up_*=CARAFE"]["seconds"] == 9.0
    assert exported["neck.up_*=CARAFE"]["p_holm"] == pytest.approx(2 * 0.0358, abs=0.05)
    assert exported["neck.c2f_*=C2f_SPConv"]["p_holm"] is None


def test_below_the_floor_is_what_is_so_with_its_whole_interval():
    trials = numbered(run({}, 0, 0.40), run(SWAP, 0, 0.375))
    assert rank_trials(trials, 0.02)[-1].below_floor
    assert not any(r.below_floor for r in rank_trials(trials, 0.02, prior=Prior(0.01, 16)))
    assert rank_trials(trials, 0.02, prior=Prior(0.001, 16))[-1].below_floor


@pytest.mark.parametrize("width", [80, 150])
def test_the_table_of_several_seeds(width):
    text = io.StringIO()
    Console(file=text, width=width).print(ranking_table(rank_trials(TRIALS, 0.02), width))
    lines = text.getvalue().splitlines()
    assert "verdict" in lines[0]
    assert any("1 seed" in line for line in lines)
    assert ("±" in text.getvalue()) == (width == 150)


def test_a_calibration_of_these_data_and_this_recipe_tells_the_error(ranked_study):
    calibrated = CalibrationResult(
        "bank-4", "map", Recipe(), 0.002, 0.0036, 0.006, 0.8, None, "9 variants", "f" * 16, "yolov8n", 16
    )
    scores = [({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0)]
    study = ranked_study(scores, calibrated, folder="a")
    assert study.settings.prior == Prior(pytest.approx(0.002 * 2**0.5), 16)
    notes = "\n".join(ranking_notes(study))
    assert "0 of 1 have several" in notes
    assert "Verdicts" not in notes
    for k, changed in enumerate(
        [
            replace(calibrated, fingerprint="e" * 16),
            replace(calibrated, base="yolov8s"),
            replace(calibrated, degrees=0),
            replace(calibrated, departures=("epochs: 4, not 2",)),
            None,
        ]
    ):
        assert ranked_study(scores, changed, folder=str(k)).settings.prior is None
    assert ranked_study(scores, calibrated, folder="each", baselines=PER_SEED).settings.prior is None


@pytest.fixture
def with_a_better_one(ranked_study):
    """Return what creates a study in which a swap is better over four seeds."""

    def make(**changes):
        study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.45, 8.0)], **changes)
        assert "several seeds" not in conclusion(study)[0]
        space = study.settings.space
        for seed, noise in ((1, 0.0), (2, 0.0004), (3, 0.0002)):
            for swaps, score in (({}, 0.4), (SWAP, 0.45 + noise)):
                t = run(swaps, seed, score)
                study.start(replace(t, variant=space.variant(t.assignment), status="running", curve=())).end(
                    status="done", curve=t.curve
                )
        return study

    return make


def test_the_conclusion_counts_verdicts(with_a_better_one):
    lines = conclusion(with_a_better_one())[0]
    assert "Over 4 seeds its mAP50-95 is better than the baseline's" in lines
    assert "of 1 with several seeds: 1 better." in lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": Recipe(init="scratch")}, ""),
        ({"recipe": Recipe(init="bank"), "baselines": PER_SEED}, ""),
        ({"recipe": Recipe(init="/w.pt")}, "; a study with other weights may differ"),
        ({"recipe": Recipe(init="bank", base_epochs=0, weights="/w.pt")}, "; a study with other weights may differ"),
        ({"recipe": Recipe(init="baseline")}, "; a study with another --seed, which trains its own, may differ"),
        ({"recipe": Recipe(init="baseline"), "table": "t"}, "; a study with other weights may differ"),
    ],
)
def test_a_verdict_is_of_the_weights_that_all_share(with_a_better_one, changes, words):
    study = with_a_better_one(**changes)
    lines = conclusion(study)[0]
    shared = f", given the trained weights that all variants share{words}" if words else ""
    assert f"){shared}. mAP50-95 against the baseline" in lines
    of_seeds = next(line for line in ranking_notes(study) if line.startswith("Seeds:"))
    assert ("The intervals do not cover the trained weights that all variants share" in of_seeds) == bool(words)
    assert ("(initial values, the trained baseline, the bank, order" in of_seeds) == (
        study.settings.baselines == PER_SEED
    )


def test_what_is_exported_with_a_mean_belongs_to_it():
    """The variant lacks the baseline's lucky seed: its mean is set against the baseline's, and so is all beside it."""
    trials = numbered(
        run({}, 0, 0.40),
        run({}, 1, 0.40),
        run({}, 2, 0.55),
        run(SWAP, 0, 0.410),
        run(SWAP, 1, 0.412),
        run(OTHER, 0, 0.4),
    )
    row = {e["swaps"]: e for e in export_rows(rank_trials(trials, 0.02))}["neck.up_*=CARAFE"]
    assert row["map50_95"] == pytest.approx(0.45 + 0.011)
    assert row["map50_95_low"] + row["map50_95_high"] == pytest.approx(2 * 0.461)
    assert row["map50"] == pytest.approx(0.2 + 0.461)
