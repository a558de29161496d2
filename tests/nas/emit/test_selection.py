"""Trials of a study, by number and by rank; random variants of a space: distinct, allowed, the same for a seed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.emit import selection
from nas.emit.selection import (
    chosen_trials,
    files_at_scales,
    random_variants,
    shuffled_variants,
    trial_of_variant,
)
from nas.errors import SpaceError, StudyError
from nas.model.render import render
from nas.space.space_file import load_space, read_space
from nas.study.objective import Goal
from nas.study.trial import Trial

SMALL = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
  backbone.down_p2: {choices: [SPConv], enabled: false}
forbid:
  - {neck.up_p4: CARAFE, neck.up_p3: CARAFE}
"""


def test_choosing_from_a_study(tmp_path):
    class Empty:
        location = type("P", (), {"name": "empty"})
        settings = type("S", (), {"floor": 0.02, "goal": Goal(), "prior": None, "at": lambda self, fidelity: self})()

        def trials(self, fidelity=""):
            return []

        runs = every_run = trials

    with pytest.raises(StudyError, match="has no finished trial yet"):
        chosen_trials(Empty())
    with pytest.raises(StudyError, match="has no trial 3 that was built; its trials: none"):
        chosen_trials(Empty(), number=3)


def test_which_of_a_ranking(ranked_study):
    study = ranked_study(
        [
            ({}, "done", 0.40, 8.0),
            ({"neck.up_*": "CARAFE"}, "done", 0.42, 8.2),
            ({"neck.up_*": "DySample"}, "done", 0.41, 8.1),
            ({"neck.down_*": "SPConv"}, "done", 0.39, 8.3),  # behind all others
            ({"neck.c2f_*": "C2f_SPConv"}, "failed", 0, 8.0),
        ]
    )

    def labels(**options):
        return [t.variant.describe() for t in chosen_trials(study, **options)]

    assert len(labels()) == 1
    up = ["neck.{up_p3,up_p4}=CARAFE", "neck.{up_p3,up_p4}=DySample"]
    assert sorted(labels(which="front")) == up
    assert sorted(labels(which="all")) == ["neck.{down_n4,down_n5}=SPConv", *up]


def test_variants_by_their_ids(ranked_study, tmp_path):
    study = ranked_study([({}, "done", 0.40, 8.0)])
    ids = []
    for label in ("CARAFE", "DySample"):
        assignment = {**study.settings.space.baseline(), "neck.up_*": label}
        variant = study.settings.space.variant(assignment)
        study.start(Trial(-1, variant, assignment, "running", yaml=render(variant).yaml)).end(status="interrupted")
        ids.append(variant.id)
    assert trial_of_variant(study, ids[1][:5].upper()).variant.id == ids[1]
    with pytest.raises(StudyError, match="has several variants that begin with ''"):
        trial_of_variant(study, "")
    with pytest.raises(StudyError, match="has no variant 'xyz'; `nas rank` lists the IDs"):
        trial_of_variant(study, "xyz")

    def emitted(*options: str):
        place = ["emit-yaml", "--study", "s", "--storage", study.location.url, "--form", "yaml", "-o", str(tmp_path)]
        return CliRunner().invoke(cli, [*place, *options])

    done = emitted("--variant", ids[0], "--variant", ids[1], "--variant", ids[0])
    assert done.exit_code == 0, done.output
    assert sorted(file.stem for file in tmp_path.glob("*.yaml")) == sorted(f"yolov8n-{name}" for name in ids)
    assert "give one of --variant, --trial" in emitted("--variant", ids[0], "--trial", "1").output


def test_nothing_but_the_baseline(ranked_study):
    study = ranked_study([({}, "done", 0.40, 8.0)])
    assert chosen_trials(study)[0].variant.is_baseline
    with pytest.raises(StudyError, match="has nothing but its baseline there"):
        chosen_trials(study, which="front")


def test_a_trials_own_bytes_and_the_costs_of_all_scales(ranked_study):
    study = ranked_study([({"neck.up_*": "CARAFE"}, "done", 0.42, 8.2)])
    trial = study.trials()[0]
    trial = replace(trial, yaml=f"# what was trained\n{render(trial.variant).yaml}")
    (own,) = files_at_scales(trial)
    assert own[1].yaml == trial.yaml
    (n, s) = files_at_scales(trial, ["n", "s", "n"])
    assert n[1].yaml == trial.yaml
    stated = [line[2] for line in s[1].yaml.splitlines() if line.startswith("  ") and "GFLOPs" in line]
    assert stated == ["n", "s"]
    assert s[0].swaps == trial.variant.swaps
    assert [v.scale for v, _ in files_at_scales(trial.variant, ["s"])] == ["s"]


# ---- random variants ------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    return read_space(SMALL, "small.yaml", "small")


def test_all_of_a_small_space(small):
    every = list(shuffled_variants(small, seed=3))
    assert len({v.id for v in every}) == len(every) == 3 * 3 - 2  # not the baseline, not the forbidden one
    swaps = [dict(v.swaps) for v in every]
    assert {"neck.up_p4": "CARAFE", "neck.up_p3": "CARAFE"} not in swaps
    assert not any("backbone.down_p2" in s or not s for s in swaps)


def test_the_seed_decides(small):
    seeds = load_space("seeds")
    for space in (small, seeds):
        assert random_variants(space, 5, seed=1) == random_variants(space, 7, seed=1)[:5]
        assert random_variants(space, 5, seed=1) != random_variants(space, 5, seed=2)


def test_a_large_space_draws_the_same_on_every_machine():
    assert [v.id for v in random_variants(load_space("seeds"), 3, seed=0)] == ["81339fa4", "82c580ee", "38524dcf"]


def test_every_choice_is_as_likely():
    """Chi-squared over 4,000 draws of each slot's four choices: 3 degrees of freedom, 15 slots; 30 is 1 in 700,000."""
    space = load_space("seeds")
    counts: dict[str, Counter[str]] = {slot.key: Counter() for slot in space.active}
    variants = random_variants(space, 4000, seed=0)
    assert len(set(variants)) == 4000
    for variant in variants:
        swaps = dict(variant.swaps)
        for slot in space.active:
            counts[slot.key][swaps.get(slot.key, "keep")] += 1
    for slot in space.active:
        expected = 4000 / len(slot.choices)
        assert sum((counts[slot.key][c] - expected) ** 2 / expected for c in slot.choices) < 30


def test_a_large_space_whose_rules_leave_little_ends(small, monkeypatch):
    monkeypatch.setattr(selection, "_ENUMERATED", 1)
    assert {v.id for v in shuffled_variants(small, seed=0)} == {v.id for v in shuffled_variants(small, seed=9)}
    assert len(list(shuffled_variants(small))) == 7


def test_fewer_than_requested(small):
    assert len(random_variants(small, 7)) == 7
    with pytest.raises(SpaceError, match=r"small has only 7 variants besides the baseline .*; 8 were requested"):
        random_variants(small, 8)


def test_limits_hold():
    from nas.model.cost import costed

    space = read_space("slots: {neck.down_n5: [SPConv, DynamicConv]}", "two.yaml", "two")
    few, many = sorted((costed(v)[1].params, v) for v in shuffled_variants(space))
    assert random_variants(space.with_limits(max_params=float(few[0])), 1) == [few[1]]
    with pytest.raises(SpaceError, match="has only 1 variants"):
        random_variants(space.with_limits(max_params=float(many[0] - 1)), 2)


def test_limits_that_nothing_keeps_end(monkeypatch):
    monkeypatch.setattr(selection, "_within", lambda *_: False)
    with pytest.raises(SpaceError, match="100 random variants in a row are over its limits"):
        random_variants(load_space("seeds").with_limits(max_gflops=1.0), 1)


def test_from_the_command_line(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(*more):
        command = ["emit-yaml", "--space", str(tmp_path / "small.yaml"), "--form", "yaml", "-o", str(tmp_path / "out")]
        return CliRunner().invoke(cli, [*command, *more])

    done = run("--sample", "2", "--scale", "n,s")
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "out").iterdir())
    assert [p.name[:8] for p in files] == ["yolov8n-", "yolov8n-", "yolov8s-", "yolov8s-"]
    for path in files:
        stated = [line[2] for line in path.read_text().splitlines() if re.match(r"  [nsmlx]: .* GFLOPs$", line)]
        assert stated == ["n", "s"]
    assert run("--sample", "9").exit_code == 1
    for wrong, words in (
        ([], "give --sample N"),
        (["--sample", "0"], "0 is not in the range"),
        (["--sample", "1", "--best"], "--best chooses from a study"),
        (["--sample", "1", "--swap", "neck.up_p4=CARAFE"], "give one of --study NAME, --swap"),
        (["--sample", "1", "--base", "yolov8"], "--base goes with --swap"),
        (["--sample", "1", "--scale", ","], "expected letters"),
    ):
        done = run(*wrong)
        assert done.exit_code == 2
        assert words in done.output
    done = CliRunner().invoke(cli, ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--seed", "1"])
    assert done.exit_code == 2
    assert "--seed goes with --space NAME" in done.output
