"""Effects: read off scores that are sums of known ones, and what is said where a design cannot tell."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from click.testing import CliRunner
from scipy import stats

from nas.cli import cli
from nas.errors import StudyError
from nas.ranking.effects import estimate_effects
from nas.space.space_file import load_space
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

UP, DOWN, C2F = "neck.up_*", "neck.down_*", "neck.c2f_*"
SPACE = load_space("quick")
EFFECT = {
    (UP, "CARAFE"): 0.02, (UP, "DySample"): 0.0, (DOWN, "SPConv"): -0.03, (DOWN, "DynamicConv"): 0.01,
    (C2F, "C2f_SPConv"): -0.02, (C2F, "C2f_DCNv4"): 0.03,
}  # fmt: skip
COST = {swap: 0.1 * (i + 1) for i, swap in enumerate(EFFECT)}
SINGLES = [{}, *({slot: label} for slot, label in EFFECT)]
EVERY = [
    {slot: label for slot, label in zip((UP, DOWN, C2F), labels, strict=True) if label != "keep"}
    for labels in itertools.product(*(s.choices for s in SPACE.active))
]


def trials(assignments, noise=0.0005, strange=0.0, effect=EFFECT, seed=0, seeds=(0,)) -> list[Trial]:
    rng = random.Random(seed)
    found = []
    for changed, of in itertools.product(assignments, seeds):
        full = {**SPACE.baseline(), **changed}
        score = 0.4 + sum(effect[swap] for swap in changed.items()) + rng.gauss(0, noise) + 0.05 * of
        score += strange * ({UP: "CARAFE", C2F: "C2f_DCNv4"}.items() <= changed.items())
        seen = Validation(score + 0.2, score, 1.0)
        gflops = 8 + sum(COST[swap] for swap in changed.items())
        curve = (EpochScore(1, 2.0, 0.1, seen),)
        found.append(Trial(len(found), SPACE.variant(full), full, "done", seed=of, gflops=gflops, curve=curve))
    return found


def test_what_each_swap_module_and_slot_does():
    found = estimate_effects(trials(EVERY), SPACE.active)
    assert (found.variants, found.untried) == (27, ())
    swaps = {e.name: e for e in found.of("swap")}
    for (slot, label), effect in EFFECT.items():
        e = swaps[f"{slot}={label}"]
        assert e.map == pytest.approx(effect, abs=0.001)
        reach = (e.map_interval[1] - e.map_interval[0]) / 2
        assert abs(e.map - effect) < 1.7 * reach < 0.002  # 99.9 % for one
        assert e.gflops == pytest.approx(COST[slot, label], abs=0.001)
        assert e.verdict == ("cannot tell" if not effect else "better" if effect > 0 else "worse")
        assert (e.variants, e.mixed_with) == (9, ())
    slots = {e.name: e for e in found.of("slot")}
    assert slots[UP].map == pytest.approx(0.01, abs=0.001)
    assert slots[DOWN].gflops == pytest.approx((COST[DOWN, "SPConv"] + COST[DOWN, "DynamicConv"]) / 2, abs=0.001)
    assert slots[C2F].variants == 18
    assert {e.name for e in found.of("module")} == {label for _, label in EFFECT}
    assert [e.map for e in found.of("swap")] == sorted((e.map for e in found.of("swap")), reverse=True)
    assert all(i.verdict == "cannot tell" for i in found.interactions)


@pytest.mark.parametrize(("strange", "verdict"), [(0.02, "more"), (-0.02, "less")])
def test_a_pair_that_is_not_its_parts(strange, verdict):
    found = estimate_effects(trials(EVERY, strange=strange), SPACE.active)
    first, *others = found.interactions
    assert set(first.swaps) == {f"{UP}=CARAFE", f"{C2F}=C2f_DCNv4"}
    assert (first.verdict, first.variants) == (verdict, 3)
    assert first.map == pytest.approx(strange, abs=0.004)
    assert all(o.p > first.p for o in others)


def test_effects_rest_on_the_mean_of_each_variants_seeds():
    """Seeds that only some variants got, and that score higher, are no effect of these."""
    chosen = trials(SINGLES) + trials([{}, {UP: "CARAFE"}], seeds=(1, 2, 3), seed=1)
    found = {e.name: e.map for e in estimate_effects(chosen, SPACE.active, error=0.0005).of("swap")}
    assert found[f"{UP}=CARAFE"] == pytest.approx(0.02, abs=0.003)
    assert found[f"{UP}=DySample"] == pytest.approx(0.0, abs=0.003)


def test_what_the_design_cannot_tell_apart_has_no_verdict():
    found = estimate_effects(trials([{}, {UP: "CARAFE", DOWN: "SPConv"}, {C2F: "C2f_DCNv4"}]), SPACE.active)
    mixed = {e.name: e.mixed_with for e in found.of("swap")}
    assert mixed == {f"{UP}=CARAFE": (f"{DOWN}=SPConv",), f"{DOWN}=SPConv": (f"{UP}=CARAFE",), f"{C2F}=C2f_DCNv4": ()}
    assert found.confounded() == [(f"{DOWN}=SPConv", f"{UP}=CARAFE")]
    assert {e.verdict for e in found.effects if e.mixed_with} == {"cannot tell"}
    assert set(found.untried) == {f"{s}={c}" for s, c in EFFECT} - set(mixed)


def test_nothing_to_read_yet():
    for few in ([], trials([{}])):
        with pytest.raises(StudyError, match="no variant other than the baseline has finished"):
            estimate_effects(few, SPACE.active)


def test_no_effect_is_seen_where_there_is_none():
    draws = 60
    none = dict.fromkeys(EFFECT, 0.0)
    wrong = 0
    for seed in range(draws):
        found = estimate_effects(trials(EVERY, noise=0.01, effect=none, seed=seed), SPACE.active)
        wrong += any(e.verdict != "cannot tell" for e in (*found.effects, *found.interactions))
    assert wrong <= stats.binom.ppf(0.9999, draws, 0.05)


def test_the_command(ranked_study):
    every = [(a, "done", 0.4 + sum(EFFECT[s] for s in a.items()) + 1e-4 * i % 3e-4, 8.0) for i, a in enumerate(SINGLES)]
    study = ranked_study(every)
    where = ["effects", "s", "--storage", study.location.url]
    result = CliRunner().invoke(cli, where)
    assert result.exit_code == 0, result.output
    assert "neck.c2f_*=C2f_DCNv4" in result.output
    assert "interactions cannot be estimated" in result.output
    body = json.loads(CliRunner().invoke(cli, [*where, "--json"]).stdout)
    assert body["effects"][0]["kind"] == "module"
    assert body["variants"] == 7
    empty = ranked_study([({}, "done", 0.4, 8.0)], folder="e")
    result = CliRunner().invoke(cli, ["effects", "s", "--storage", empty.location.url])
    assert result.exit_code == 1
    assert "there is no effect to estimate yet" in result.stderr
