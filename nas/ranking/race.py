"""Racing: which variants get further seeds, and when a variant needs no more of them.

After the screening the first of the ranking are the contenders. They and the baseline are trained under one further
seed after the other, the same for all. A contender that is clearly not the best is dropped, and its remaining seeds go
to those that still overlap. All decisions follow from the finished runs alone, seed by seed: the order in which they
were trained, and the number of processes, do not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nas.ranking.rank import RankRow, confirmed_winner, rank_trials
from nas.ranking.replicates import group_by_variant, paired_differences, paired_mean, scores_by_seed
from nas.ranking.verdict import LEAST_SEEDS, LEVEL, chance_below, compare
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.objective import Goal, Prior
from nas.study.trial import Trial

if TYPE_CHECKING:
    from nas.study.study import Study


@dataclass(frozen=True)
class Rules:
    """The parameters of a race.

    Attributes:
        confirm: Number of contenders, and of seeds.
        first: The study's seed.
        screened: Seeds that every variant of the study gets.
        floor: As in `nas.ranking.rank.rank_trials`.
        prior: As in `nas.ranking.rank.rank_trials`.
        goal: As in `nas.ranking.rank.rank_trials`.
        excluded_seeds: Seeds under which nothing can be trained: those whose baseline has not learnt.
    """

    confirm: Confirm
    first: int
    screened: int
    floor: float
    prior: Prior | None = None
    goal: Goal = field(default_factory=Goal)
    excluded_seeds: frozenset[int] = frozenset()

    def seeds(self, count: int) -> tuple[int, ...]:
        """Return the first `count` seeds: the study's own and those after it, without the excluded ones."""
        usable = (seed for seed in itertools.count(self.first) if seed not in self.excluded_seeds)
        return tuple(itertools.islice(usable, count))

    @property
    def looks(self) -> int:
        """The highest number of seeds after which contenders may be dropped (interim analyses)."""
        return max(1, 2 * self.confirm.seeds - 2)


@dataclass(frozen=True)
class Round:
    """The next runs of a race: contenders and the baseline under one seed.

    Attributes:
        seed: Of all of them.
        live: The contenders still in the race.
        missing: Those of them, and the baseline, that lack a run under that seed; the baseline first.
    """

    seed: int
    live: tuple[Variant, ...]
    missing: tuple[Variant, ...]


def rules_of(study: Study) -> Rules:
    """Return the parameters of a study's race."""
    s = study.settings
    return Rules(study.confirm, s.seed, study.seeds, s.floor, s.prior, s.goal, frozenset(study.excluded_seeds))


def find_winner(study: Study, rows: Sequence[RankRow], trials: Sequence[Trial] | None = None) -> RankRow:
    """Return the row of a study's ranking, not empty, that is recommended: the confirmed one once the race is over.

    Args:
        study: The study.
        rows: Its ranking.
        trials: Its trials at its own recipe; by default they are read.
    """
    rules = rules_of(study)
    over = rules.confirm.top > 0 and next_round(study.trials() if trials is None else trials, rules) is None
    return confirmed_winner(rows) if over else rows[0]


def contenders(trials: Sequence[Trial], rules: Rules) -> list[Variant]:
    """Return the first of the ranking by the screening's seeds, without the baseline and those below the floor."""
    seen = rules.seeds(rules.screened)
    rows = rank_trials([t for t in trials if t.seed in seen], rules.floor, rules.goal, rules.prior)
    found = [r.trial.variant for r in rows if not r.trial.variant.is_baseline and not r.below_floor]
    return found[: rules.confirm.top]


def next_round(trials: Sequence[Trial], rules: Rules) -> Round | None:
    """Return the next runs of the race; None when it is over, or has no contenders.

    Args:
        trials: Of one study at its own recipe, its screening finished.
        rules: The parameters of the race.
    """
    live = contenders(trials, rules)
    runs = group_by_variant(trials)
    base = next((v for v in runs if v.is_baseline), None)
    if base is None or not live or not scores_by_seed(runs[base]):
        return None
    settled = {(t.variant, t.seed) for t in trials if t.spent}
    gflops = {v: next(t.gflops for t in runs[v] if t.status == "done") for v in live}
    if rules.goal.objective == "map":
        gflops = dict.fromkeys(live, 1.0)
    left = len(live) * max(0, rules.confirm.seeds - rules.screened)
    seeds = rules.seeds(2 * rules.confirm.seeds)
    for k, seed in enumerate(seeds[rules.screened :], rules.screened):
        if len(live) > left or (k >= rules.confirm.seeds and len(live) < 2):
            return None
        missing = tuple(v for v in (base, *live) if (v, seed) not in settled)
        if missing:
            return Round(seed, tuple(live), missing)
        left -= len(live)
        until = [t for t in trials if t.seed <= seed]
        live = surviving_contenders(
            {v: scores_by_seed(own) for v, own in group_by_variant(until).items()}, base, live, gflops, rules
        )
        if not live:
            return None
    return None


def surviving_contenders(
    scores: Mapping[Variant, Mapping[int, float]],
    base: Variant,
    live: Sequence[Variant],
    gflops: Mapping[Variant, float],
    rules: Rules,
) -> list[Variant]:
    """Return the contenders that get another seed; none once the order, and the verdict of the first, are settled.

    A contender is dropped if it is clearly below the floor, or has clearly less mAP per GFLOP (or mAP, if that is the
    objective) than the best. The truly best one is dropped in the course of a race with a probability of at most
    `LEVEL`, which is divided among the other contenders and the interim analyses.

    Args:
        scores: Of every variant, by seed.
        base: The baseline.
        live: The contenders so far.
        gflops: Of each of them; 1 if mAP alone is the objective.
        rules: The parameters of the race.
    """
    every = [v for v in scores if v != base and scores[v]]  # the family that the ranking corrects for
    paired = [paired_differences(scores[v], scores[base]) for v in every]
    compared = dict(zip(every, compare(paired, rules.prior), strict=True))
    kept = [v for v in live if not (interval := compared[v].interval) or interval[1] >= -rules.floor]
    if not kept or rules.goal.has_front or rules.goal.budgets:  # a Pareto front has no first, budgets several
        return kept
    best = max(kept, key=lambda v: paired_mean(scores[v], scores[base]) / gflops[v])
    others = [v for v in kept if v != best]
    behind = [_per_gflop(scores[v], gflops[v], scores[best], gflops[best]) for v in others]
    scaled = rules.prior and Prior(rules.prior.sd / gflops[best], rules.prior.degrees)
    level = LEVEL / (max(1, rules.confirm.top - 1) * rules.looks)
    for v, c in zip(others, compare(behind, scaled), strict=True):
        if c.seeds >= LEAST_SEEDS and chance_below(c) < level:
            kept.remove(v)
    settled = compared[best].p
    return [] if kept == [best] and settled is not None and settled < LEVEL / rules.looks else kept


def _per_gflop(own: Mapping[int, float], gflops: float, best: Mapping[int, float], of_best: float) -> list[float]:
    """Return mAP per GFLOP minus that of the best, under their common seeds."""
    return [own[seed] / gflops - best[seed] / of_best for seed in sorted(own.keys() & best.keys())]
