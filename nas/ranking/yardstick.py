"""Variants against their yardstick: the baseline pruned uniformly to about the same GFLOPs.

"mAP per GFLOP" rewards whatever is smaller, and anybody can make a model smaller by its width. So a variant that costs
less than the baseline is compared with the measured yardstick that is nearest to it in GFLOPs, under the same seeds and
with the statistics of `nas.ranking.verdict`. Nothing is interpolated: a variant without a yardstick within `NEAR` has
no verdict against one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.ranking.rank import RankRow, rank_trials
from nas.ranking.replicates import paired_differences, scores_by_seed
from nas.ranking.verdict import LEAST_SEEDS, Comparison, compare
from nas.space.variant import Variant
from nas.study.objective import Prior
from nas.study.study import Study
from nas.study.trial import Trial

NEAR = 0.05
"""Share of a variant's GFLOPs by which its yardstick may differ from them."""


@dataclass(frozen=True)
class Against:
    """A variant against its yardstick.

    Attributes:
        yardstick: The yardstick, as a row of a ranking: its differences are to the baseline.
        comparison: The variant's mAP50-95 minus the yardstick's, under their common seeds.
    """

    yardstick: RankRow
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``cannot tell``, or with one common seed ``1 seed``."""
        seeds = self.comparison.seeds
        return self.comparison.verdict if seeds >= LEAST_SEEDS else f"{seeds} seed"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        c = self.comparison
        return {
            "id": self.yardstick.trial.variant.id,
            "width": self.yardstick.trial.variant.width,
            "gflops": round(self.yardstick.trial.gflops, 4),
            "map50_95": round(self.yardstick.trial.map, 5),
            "seeds": c.seeds,
            "delta_map50_95": None if c.delta is None else round(c.delta, 5),
            "interval": [round(end, 5) for end in c.interval] if c.interval else None,
            "verdict": self.verdict,
            "p_holm": None if c.p is None else float(f"{c.p:.4g}"),
        }


def measured_yardsticks(study: Study) -> list[RankRow]:
    """Return the finished yardsticks of a study, by GFLOPs, each compared with the baseline."""
    s = study.settings
    every = study.every_run()
    made = [t for t in every if t.variant.width is not None]
    if not made:
        return []
    baseline = [t for t in every if t.variant.is_baseline and not t.fidelity]
    rows = rank_trials([*baseline, *made], s.floor, s.goal, s.prior)
    return sorted((r for r in rows if r.trial.variant.width is not None), key=lambda r: r.trial.gflops)


def compare_with_yardsticks(
    rows: Sequence[RankRow], yardsticks: Sequence[RankRow], prior: Prior | None = None
) -> dict[Variant, Against]:
    """Compare the variants of a ranking with their yardsticks; those without one are missing.

    A variant that costs as much as the baseline, or more, has none: what a user would do instead is the baseline.
    The verdicts are corrected over all variants that are compared.

    Args:
        rows: The ranking, at the study's own recipe.
        yardsticks: As `measured_yardsticks`.
        prior: As in `nas.ranking.verdict.compare`.
    """
    smaller = [row for row in rows if row.delta_gflops is None or row.delta_gflops < 0]
    pairs = [(row, found) for row in smaller if (found := nearest_yardstick(row.trial, yardsticks))]
    differences = [
        paired_differences(scores_by_seed(row.runs), scores_by_seed(yardstick.runs)) for row, yardstick in pairs
    ]
    compared = compare(differences, prior) if pairs else []
    return {
        row.trial.variant: Against(yardstick, c) for (row, yardstick), c in zip(pairs, compared, strict=True) if c.seeds
    }


def nearest_yardstick(trial: Trial, yardsticks: Sequence[RankRow]) -> RankRow | None:
    """Return the yardstick that is nearest in GFLOPs; None without one within `NEAR`, and for the baseline."""
    if trial.variant.is_baseline or not yardsticks:
        return None
    found = min(yardsticks, key=lambda y: (abs(y.trial.gflops - trial.gflops), y.trial.gflops))
    return found if abs(found.trial.gflops - trial.gflops) <= NEAR * trial.gflops else None


def widest_measured(yardsticks: Sequence[RankRow], gflops: float) -> RankRow | None:
    """Return the yardstick of a budget: the one of the most GFLOPs within it; None without one within `NEAR` of it."""
    within = [y for y in yardsticks if (1 - NEAR) * gflops <= y.trial.gflops <= gflops]
    return max(within, key=lambda y: y.trial.gflops, default=None)


def yardsticks_json(yardsticks: Sequence[RankRow]) -> list[dict[str, Any]]:
    """Return yardsticks as plain values; differences and verdicts are against the baseline."""
    return [
        {
            "id": y.trial.variant.id,
            "trial": y.trial.number,
            "width": y.trial.variant.width,
            "gflops": round(y.trial.gflops, 4),
            "params": y.trial.params,
            "map50_95": round(y.trial.map, 5),
            "map50_95_interval": [round(end, 5) for end in y.map_interval] if y.map_interval else None,
            "delta_map50_95": None if y.delta_map is None else round(y.delta_map, 5),
            "interval": [round(end, 5) for end in y.interval] if y.interval else None,
            "verdict": y.verdict,
            "seeds": y.seeds,
            "seed_list": [t.seed for t in y.runs],
        }
        for y in yardsticks
    ]


def against_json(against: Mapping[Variant, Against]) -> dict[str, dict[str, Any]]:
    """Return comparisons as plain values, by the ids of the variants."""
    return {variant.id: one.to_json() for variant, one in against.items()}
