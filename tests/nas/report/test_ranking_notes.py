"""What is said under a ranking: what it rests on, how far it can be trusted, and what was found on the way."""

from __future__ import annotations

import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nas.bank.jobs import CONTROL, Candidate, Distilled
from nas.bank.store import SwapBank
from nas.calibration.result import CalibrationResult
from nas.emit.selection import chosen_trials
from nas.report.bank_table import idle_words
from nas.report.ranking_notes import _verdict_words, conclusion, ranking_notes
from nas.study.budget import Confirm
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

UP, DOWN, C2F = "neck.up_*", "neck.down_*", "neck.c2f_*"
SWAP, OTHER = {UP: "CARAFE"}, {C2F: "C2f_SPConv"}
ANSWER = CalibrationResult(
    proxy="bank-4",
    score="map",
    recipe=Recipe(),
    error=0.002,
    resolution=0.0036,
    spread=0.006,
    spearman=0.812,
    spearman_interval=(0.51, 0.93),
    on="9 variants of seeds on /data/a.yaml",
    fingerprint="f" * 16,
    base="yolov8n",
)


@pytest.fixture
def of_maps(ranked_study):
    """Return what tells the notes on a baseline of 0.4 and single swaps of these scores."""

    def make(maps: list[float], calibrated=None, folder: str = "") -> list[str]:
        singles = [{UP: "CARAFE"}, {UP: "DySample"}, {DOWN: "SPConv"}, {DOWN: "DynamicConv"}, OTHER]
        trials = [({}, "done", 0.4, 8.0), *((a, "done", m, 8.0) for a, m in zip(singles, maps, strict=False))]
        return ranking_notes(ranked_study(trials, calibrated, folder))

    return make


def test_conclusion_of_a_gain(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0), (OTHER, "done", 0.3, 7.0)])
    sentence, following, _ = conclusion(study)
    assert sentence == (
        "Compared 3 variants of yolov8n. First: neck.up_*=CARAFE, with +2.5% mAP50-95 per GFLOP over the baseline"
        " (+0.010 mAP50-95, 0.0 % GFLOPs)."
    )
    assert following.endswith(f"nas emit-yaml --study s --storage {study.location.url} --best -o out/")


def test_conclusion_without_a_gain_or_a_start(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.4, 8.5)], folder="a")
    assert "No swap beats the baseline" in conclusion(study)[0]
    study = ranked_study([({}, "done", 0.4, 8.0)], folder="d")
    assert conclusion(study)[0] == "Only the baseline has finished yet."
    study = ranked_study([({}, "done", 0.001, 8.0), (SWAP, "done", 0.4, 8.5)], folder="b")
    assert "The baseline has hardly learnt anything" in conclusion(study)[0]
    study = ranked_study([({}, "failed", 0, 8.0), (SWAP, "done", 0.4, 8.5)], folder="c")
    assert conclusion(study) == ["The baseline has not finished: there is nothing to compare these variants with yet."]


def test_the_answer_is_among_what_was_confirmed(ranked_study):
    """The number of variants above it with one seed is reported, with the command that confirms them."""
    singles = [({}, 0.40), (SWAP, 0.44), (OTHER, 0.43), ({DOWN: "SPConv"}, 0.425), ({DOWN: "DynamicConv"}, 0.424)]
    study = ranked_study([(swaps, "done", score, 8.0) for swaps, score in singles])
    study.set_seeds(None, Confirm(2, 2))
    assert "First: neck.up_*=CARAFE" in conclusion(study)[0]
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.6, 0.40, 1.0)),)
    for trial in study.trials()[:3]:
        study.start(replace(trial, number=-1, seed=1, status="running", curve=())).end(status="done", curve=curve)
    sentence, _, further = conclusion(study)
    assert "First: neck.up_*=CARAFE, with +5.0% mAP50-95 per GFLOP" in sentence
    assert " Above it with one seed: 2 variants, not confirmed." in sentence
    assert further.endswith(" --confirm 4:2")
    assert [t.variant.describe() for t in chosen_trials(study)] == ["neck.{up_p3,up_p4}=CARAFE"]


def test_what_went_wrong_is_said(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "failed", 0, 8.0), (OTHER, "rejected", 0, 9.0)])
    notes = "\n".join(ranking_notes(study))
    assert "failed: " in notes
    assert "(neck.up_*=CARAFE) why" in notes
    assert "over a limit: " in notes


def test_a_study_that_has_nothing_yet_has_notes(ranked_study):
    for k, calibrated in enumerate((None, ANSWER)):
        study = ranked_study([], calibrated, folder=str(k))
        assert ranking_notes(study)[0].startswith("Proxy: 8 epochs")
        assert conclusion(study) == ["No variant has finished yet."]


@pytest.mark.parametrize(
    ("recipe", "score", "words"),
    [
        (
            {"init": "bank", "epochs": 4, "base_epochs": 40, "bank_epochs": 8},
            "map",
            "seed 0, swaps distilled for 8 epochs from a baseline of 40 epochs (mAP50-95 0.512);",
        ),
        ({"init": "baseline", "base_epochs": 9}, "map", "inheriting from a baseline of 9 epochs (mAP50-95 0.512);"),
        ({"init": "scratch"}, "map", "8 epochs at 160 px, batch 16, seed 0, from scratch;"),
        ({"init": "/a/b.pt"}, "map", "seed 0, inheriting from /a/b.pt;"),
        ({"init": "bank", "epochs": 0}, "map", "Proxy: no training at 160 px"),
        (
            {"init": "scratch"},
            "map_average",
            "from scratch; scored by mAP50-95 of the averaged weights; 4 training and 2",
        ),
    ],
)
def test_what_a_proxy_is(ranked_study, recipe, score, words):
    study = ranked_study([], recipe=replace(Recipe(), **recipe), score=score)
    study.store_baseline_training((EpochScore(1, 2.0, 0.1), EpochScore(2, 2.0, 0.1, Validation(0.7, 0.512, 1.0))))
    assert words in ranking_notes(study)[0]


def test_without_a_calibration_nobody_knows(of_maps):
    notes = "\n".join(of_maps([0.41, 0.42]))
    assert "Screening: one seed per variant, and the resolution of this proxy is not known here." in notes
    assert "`nas calibrate quick` measures it" in notes
    assert "Resolution" not in notes


def test_a_calibration_says_what_can_be_seen(of_maps):
    notes = "\n".join(of_maps([0.38, 0.42], ANSWER))
    assert (
        "Resolution: 0.0036 mAP50-95, the smallest difference whose sign is right in 9 of 10 comparisons of one run "
        "each; Spearman 0.81 [0.51, 0.93] with full training (calibrated with 9 variants of seeds on /data/a.yaml)."
    ) in notes
    assert "nas calibrate" not in notes
    assert "other data" not in notes
    assert "cannot be distinguished" not in notes


def test_a_calibration_on_other_data_and_without_an_interval(of_maps):
    other = replace(ANSWER, fingerprint="e" * 16, spearman_interval=None)
    notes = "\n".join(of_maps([0.38, 0.42], other))
    assert "Spearman 0.81 with full training" in notes
    assert "It was calibrated on other data and may differ here." in notes


MAPS = [0.402, 0.405, 0.398, 0.41]


@pytest.mark.parametrize(("factor", "apart"), [(0.99, True), (1.0, True), (1.01, False)])
def test_told_apart_is_what_spreads_by_more_than_the_resolution(of_maps, factor, apart):
    """The baseline, which is far from all others here, does not belong to the spread."""
    far = [m + 0.1 for m in MAPS]
    spread = statistics.stdev(far)
    notes = of_maps(far, replace(ANSWER, resolution=factor * spread))
    assert any("cannot be distinguished" in line for line in notes) != apart
    assert any(f"standard deviation of {spread:.4f} is below the resolution" in line for line in notes) != apart


def test_a_single_variant_has_no_spread(of_maps):
    notes = "\n".join(of_maps([0.41], ANSWER))
    assert "Resolution" in notes
    assert "cannot be distinguished" not in notes


def test_how_many_are_as_good_as_the_best(of_maps):
    notes = of_maps([0.41, 0.408, 0.4, 0.409], ANSWER, folder="a")
    assert "2 other variants are within the resolution of the highest mAP50-95." in notes
    notes = "\n".join(of_maps([0.41, 0.4, 0.405], ANSWER, folder="b"))
    assert "within the resolution" not in notes


def combined(strange: float = 0.0) -> list[tuple[dict[str, str], str, float, float]]:
    """Return every single swap and six combinations whose scores are the sums of their parts, but for one."""
    effect = {
        (UP, "CARAFE"): 0.02, (UP, "DySample"): -0.01, (DOWN, "SPConv"): -0.03, (DOWN, "DynamicConv"): 0.015,
        (C2F, "C2f_SPConv"): -0.02, (C2F, "C2f_DCNv4"): 0.03,
    }  # fmt: skip
    pairs = [
        {UP: "CARAFE", DOWN: "SPConv"},
        {UP: "CARAFE", C2F: "C2f_DCNv4"},
        {UP: "DySample", C2F: "C2f_SPConv"},
        {DOWN: "SPConv", C2F: "C2f_DCNv4"},
        {DOWN: "DynamicConv", C2F: "C2f_SPConv"},
        {UP: "DySample", DOWN: "DynamicConv"},
    ]
    every = [{}, *({slot: label} for slot, label in effect), *pairs]
    scores = [0.4 + sum(effect[swap] for swap in a.items()) for a in every]
    scores[-2] += strange
    return [(a, "done", m, 8.0) for a, m in zip(every, scores, strict=True)]


def test_parts_of_a_sum(ranked_study):
    notes = ranking_notes(ranked_study(combined(), ANSWER))
    (parts,) = [line for line in notes if line.startswith("Additive model: ")]
    assert parts.startswith(
        "Additive model: 6 combinations predicted from the other variants, root mean square error 0.00"
    )
    alone, base = (float(parts.split(word)[1][:6]) for word in ("from their mean ", "from the baseline's score "))
    assert float(parts.split("error ")[1][:6]) < 0.25 * min(alone, base)
    assert not any("its parts" in line for line in notes)


@pytest.mark.parametrize(("strange", "how"), [(0.05, "beats"), (-0.05, "falls short of")])
def test_a_combination_that_is_not_its_parts(ranked_study, strange, how):
    notes = ranking_notes(ranked_study(combined(strange), ANSWER))
    lines = [line for line in notes if "its parts" in line]
    assert lines[0].startswith(f"{C2F}=C2f_SPConv  {DOWN}=DynamicConv: {how} its parts by 0.0")
    assert "expected 0.39" in lines[0]
    assert len(lines) <= 3


def test_without_combinations_nothing_is_said_of_parts(of_maps):
    assert not any("combinations" in line for line in of_maps(MAPS, ANSWER))


def test_what_the_bank_found(ranked_study, tmp_path):
    study = ranked_study([({}, "done", 0.4, 8.0)], recipe=replace(Recipe(), init="bank"))
    assert not any("nas bank" in line or "No swap can matter" in line for line in ranking_notes(study))
    failed = [
        Distilled(Candidate("neck.up_p4", "CARAFE"), "", 1.0, float("nan"), "its distillation diverged"),
        Distilled(Candidate("neck.up_p3", CONTROL), "", 1.0, float("nan"), "its distillation diverged"),
    ]
    drops = {"neck.up_p4": 0.2, "neck.c2f_p3": 0.00099, "neck.up_p3": -0.01, "neck.c2f_n4": 0.001}
    bank = SwapBank(tmp_path, 0.4, drops, {(d.candidate.slot, d.candidate.label): d for d in failed})
    study.store_bank(bank)
    notes = ranking_notes(study)
    assert (
        "No swap can matter on these data in neck.c2f_p3, neck.up_p3: the baseline loses less than 0.001 mAP50-95 "
        "when the layer's output is replaced by its channel means."
    ) in notes
    assert [line for line in notes if "kept out" in line] == [
        "kept out of the search: neck.up_p4=CARAFE: its distillation diverged"
    ]
    assert "distil: the largest distillation error among the swaps; `nas bank s` lists all." in notes
    study.store_bank(replace(bank, drops={"neck.up_p4": 0.001}, candidates={}))
    assert not any("No swap can matter" in line or "kept out" in line for line in ranking_notes(study))
    assert not any(line.startswith("Levels") for line in ranking_notes(study))  # a bank of an earlier version
    study.store_bank(replace(bank, levels={"P3": 0.9, "P4": 0.1, "P5": 0.0}))
    assert (
        "Levels of the trained baseline: its assigner takes P3 90%, P4 10%, P5 0% of the positives on training images; "
        "it does not use P5."
    ) in ranking_notes(study)


TARGET = (0.01, 0.31, 0.68)


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        (
            (0.92, 0.08, 0.0),
            [
                (
                    "Idle because of the proxy (160 px): neck.down_n5, backbone.c2f_p5. At 640 px boxes fall on their "
                    "level (P5 68%), in the proxy none do: nothing is known of swaps there. `nas data` shows which "
                    "proxy would do."
                ),
                (
                    "Idle in this proxy (160 px): neck.up_p4. It may be the proxy's fault: the boxes fall on other "
                    "levels than at 640 px (total variation 0.91)."
                ),
            ],
        ),
        (
            (0.01, 0.37, 0.62),
            [
                (
                    "Idle on these data at 640 px: neck.up_p4, neck.down_n5, backbone.c2f_p5. The baseline loses less "
                    "than 0.001 mAP50-95 when these layers put out only their channel means, though the proxy shows "
                    "objects at the target's sizes: no swap can matter there, and the layers may be removed."
                )
            ],
        ),
    ],
)
def test_slots_that_idle_on_the_data_or_because_of_the_proxy(ranked_study, tmp_path, proxy, expected):
    recipe = replace(Recipe(), init="bank")
    study = ranked_study([({}, "done", 0.4, 8.0)], recipe=recipe, target=640, levels=(TARGET, proxy))
    drops = {"neck.up_p4": 0.0, "neck.down_n5": -0.01, "backbone.c2f_p5": 0.0009, "neck.c2f_p3": 0.2}
    study.store_bank(SwapBank(tmp_path, 0.4, drops, {}))
    notes = ranking_notes(study)
    assert [line for line in notes if line.startswith("Idle")] == expected
    assert not any("No swap can matter" in line for line in notes)


def test_a_level_that_the_target_does_not_use_is_no_fault_of_the_proxy():
    settings = SimpleNamespace(
        levels=((0.0, 0.0, 1.0), (0.1, 0.4, 0.5)), target=640, recipe=Recipe(imgsz=224, windows_at=640)
    )
    (data, unclear) = idle_words(["neck.up_p3", "backbone.c2f_p2", "neck.c2f_n5+EMA"], settings)
    assert data.startswith("Idle on these data at 640 px: neck.up_p3, backbone.c2f_p2.")
    assert unclear.startswith("Idle in this proxy (windows of 224 px at 640 px): neck.c2f_n5+EMA.")
    assert not idle_words(["neck.up_p3"], SimpleNamespace(levels=()))


def test_how_mature_the_baseline_is(ranked_study):
    recipe = Recipe(init="bank", base_epochs=1, base_until=2)
    study = ranked_study([({}, "done", 0.4, 8.0)], recipe=recipe)
    curve = [EpochScore(k, 2.0, 0.1, Validation(0.5, value, 1.0)) for k, value in ((1, 0.2), (2, 0.3))]
    study.store_baseline_training(tuple(curve))
    assert (
        "from a baseline of 2 epochs (mAP50-95 0.300; still rising at its limit of 2 epochs: +0.100 mAP50-95 over its "
        "last 1 epochs)"
    ) in ranking_notes(study)[0]


def test_what_failed_under_a_further_seed_has_been_looked_at(ranked_study):
    """It is reported apart, and the next command does not request less than is confirmed."""
    singles = [({}, 0.40), (SWAP, 0.44), (OTHER, 0.43), ({DOWN: "SPConv"}, 0.42)]
    study = ranked_study([(swaps, "done", score, 8.0) for swaps, score in singles])
    study.set_seeds(None, Confirm(3, 2))
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.6, 0.41, 1.0)),)
    for trial in study.trials()[:4]:
        handle = study.start(replace(trial, number=-1, seed=1, status="running", curve=()))
        if trial.assignment[UP] == SWAP[UP]:
            handle.end(status="failed", failure="nan: loss")
        else:
            handle.end(status="done", curve=curve)
    sentence, _, further = conclusion(study)
    assert " Above it with one seed, but failed with another: 1 variant." in sentence
    assert "not confirmed" not in sentence
    assert further.endswith(" --trials 10")


@pytest.mark.parametrize(
    ("verdict", "interval", "words"),
    [
        ("cannot tell", (-0.02, 0.01), "is not clearly different from the baseline's (-0.0200 to +0.0100)."),
        (
            "cannot tell",
            (-0.02, -0.01),
            "(-0.0200 to -0.0100), whose interval leaves zero out: with this many comparisons",
        ),
        ("worse", (-0.02, -0.01), "is worse than the baseline's (-0.0200 to -0.0100)"),
    ],
)
def test_an_interval_without_zero_is_explained_where_the_verdict_is_open(ranked_study, verdict, interval, words):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0)])
    said = _verdict_words(SimpleNamespace(seeds=3, interval=interval, verdict=verdict), study)
    assert words in said
    assert ("leaves zero out" in said) == (verdict == "cannot tell" and interval[1] < 0)
