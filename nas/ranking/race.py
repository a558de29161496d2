"""The race: which variants get further seeds, and when the seeds of one of them would tell nothing more.

After the screening the first of the ranking are the contenders. They and the baseline are trained under one further
seed after the other, all of them under the same one. A contender that is clearly no longer the best gets none any more,
and what it would have cost goes to those that still overlap. Everything here follows from the finished runs alone, seed
by seed: it does not matter in which order, or by how many processes, they were trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nas.ranking.rank import RankRow, first_ranked, rank
from nas.ranking.replicates import differences, mean_of, runs_of, scores_of
from nas.ranking.verdict import LEAST_SEEDS, LEVEL, chance_below, compare
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.objective import Goal, Prior
from nas.study.trial import Trial

if TYPE_CHECKING:
    from nas.study.study import Study


@dataclass(frozen=True)
class Rules:
    """What a race goes by.

    Attributes:
        confirm: How many contenders, and seeds.
        first: The study's seed.
        screened: Seeds that every variant of the study gets.
        floor: As in `nas.ranking.rank.rank`.
        prior: As in `nas.ranking.rank.rank`.
        goal: As in `nas.ranking.rank.rank`.
        left_out: Seeds under which nothing can be trained: those of baselines that have not learnt.
    """

    confirm: Confirm
    first: int
    screened: int
    floor: float
    prior: Prior | None = None
    goal: Goal = field(default_factory=Goal)
    excluded_seeds: frozenset[int] = frozenset()

    def seeds(self, count: int) -> tuple[int, ...]:
        """Return the first so many seeds: the study's own and what follows it, but for those that are left out."""
        usable = (seed for seed in itertools.count(self.first) if seed not in self.excluded_seeds)
        return tuple(itertools.islice(usable, count))

    @property
    def looks(self) -> int:
        """After how many seeds contenders may be dropped at most."""
        return max(1, 2 * self.confirm.seeds - 2)


@dataclass(frozen=True)
class Round:
    """What is to be trained next: contenders under one seed, and the baseline with them.

    Attributes:
        seed: Of all of them.
        live: The contenders that still run.
        missing: Which of these, and the baseline, have not been trained under that seed; the baseline first.
    """

    seed: int
    live: tuple[Variant, ...]
    missing: tuple[Variant, ...]


def rules_of(study: Study) -> Rules:
    """Return what a study's further seeds go by."""
    s = study.settings
    return Rules(study.confirm, s.seed, study.seeds, s.floor, s.prior, s.goal, frozenset(study.excluded_seeds))


def winner_of(study: Study, rows: Sequence[RankRow]) -> RankRow:
    """Return what a study answers, of its ranking, which has a row: what was confirmed, as soon as its race is over."""
    rules = rules_of(study)
    over = rules.confirm.top > 0 and next_round(study.trials(), rules) is None
    return first_ranked(rows) if over else rows[0]


def contenders(trials: Sequence[Trial], rules: Rules) -> list[Variant]:
    """Return the first of the ranking by the screening's seeds, without the baseline and what is below the floor."""
    seen = rules.seeds(rules.screened)
    rows = rank([t for t in trials if t.seed in seen], rules.floor, rules.goal, rules.prior)
    found = [r.trial.variant for r in rows if not r.trial.variant.is_baseline and not r.below_floor]
    return found[: rules.confirm.top]


def next_round(trials: Sequence[Trial], rules: Rules) -> Round | None:
    """Return what the race is to train next; None when it is over, or there is nothing to race.

    Args:
        trials: Of one study at its own recipe, its screening finished.
        rules: What it goes by.
    """
    live = contenders(trials, rules)
    runs = runs_of(trials)
    base = next((v for v in runs if v.is_baseline), None)
    if base is None or not live or not scores_of(runs[base]):
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
        live = survivors({v: scores_of(own) for v, own in runs_of(until).items()}, base, live, gflops, rules)
        if not live:
            return None
    return None


def survivors(
    scores: Mapping[Variant, Mapping[int, float]],
    base: Variant,
    live: Sequence[Variant],
    gflops: Mapping[Variant, float],
    rules: Rules,
) -> list[Variant]:
    """Return the contenders that get another seed; none when the order, and the first one's verdict, are settled.

    Dropped is what is clearly below the floor, and what has clearly less mAP per GFLOP (or mAP, where that is looked
    for) than the best. Over a race the truly best one falls behind with a probability of at most `LEVEL`, which is
    divided among the other contenders and the looks.

    Args:
        scores: Of every variant, by seed.
        base: The baseline.
        live: The contenders that have run so far.
        gflops: Of each of them; 1 where mAP alone is looked for.
        rules: What the race goes by.
    """
    every = [v for v in scores if v != base and scores[v]]  # as the ranking compares and corrects
    paired = [differences(scores[v], scores[base]) for v in every]
    compared = dict(zip(every, compare(paired, rules.prior), strict=True))
    kept = [v for v in live if not (interval := compared[v].interval) or interval[1] >= -rules.floor]
    if not kept or rules.goal.has_front:  # on a front nothing is first
        return kept
    best = max(kept, key=lambda v: mean_of(scores[v], scores[base]) / gflops[v])
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
    """Return mAP per GFLOP minus that of the best, under the seeds that both have."""
    return [own[seed] / gflops - best[seed] / of_best for seed in sorted(own.keys() & best.keys())]
