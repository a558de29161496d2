"""The ranking: which variants are worth their GFLOPs.

Variants are ordered by mAP50-95 per GFLOP, or by what else the study looks for (`nas.objective`). Alone that order
crowns whatever is smallest, so a variant that loses more than the study's floor against the baseline stands below all
that do not, and the difference to the baseline and the Pareto front stand beside it. With one seed a variant, the
interval and the verdict have nothing to rest on, and say so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from nas.objective import Goal
from nas.trial import Trial


@dataclass(frozen=True)
class RankRow:
    """One variant's place.

    Attributes:
        rank: From 1.
        trial: Its trial.
        delta_map: mAP50-95 minus the baseline's, paired by seed; None without a baseline.
        delta_gflops: GFLOPs over the baseline's, minus 1; None without a baseline.
        below_floor: Whether it loses more than the floor allows, or has less than the least mAP asked for.
        on_front: Whether no other variant has both more mAP and less cost (one of them at least as good).
        seeds: How many seeds it rests on.
        interval: 95 % interval of `delta_map`; None with fewer than two seeds.
        verdict: ``baseline``, ``better``, ``worse`` or ``cannot tell``; the last one with fewer than two seeds.
    """

    rank: int
    trial: Trial
    delta_map: float | None
    delta_gflops: float | None
    below_floor: bool
    on_front: bool
    seeds: int = 1
    interval: tuple[float, float] | None = None
    verdict: str = "cannot tell"


def baseline_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial of the baseline, if there is one."""
    return next((t for t in trials if t.status == "done" and t.variant.is_baseline), None)


def rank(trials: Sequence[Trial], floor: float, goal: Goal | None = None) -> list[RankRow]:
    """Return the finished trials, best first.

    Args:
        trials: Of one study.
        floor: mAP50-95 that a variant may lose against the baseline.
        goal: What the study looks for; by default mAP per GFLOP.
    """
    goal = goal or Goal()
    done = [t for t in trials if t.status == "done"]
    base = baseline_of(done)
    least = goal.least(base, floor)
    ordered = goal.order(done, least)
    front = {t.number for t in pareto_front(done, goal)}
    return [
        RankRow(
            rank=place,
            trial=t,
            delta_map=t.map - base.map if base else None,
            delta_gflops=t.gflops / base.gflops - 1 if base else None,
            below_floor=t.map < least,
            on_front=t.number in front,
            verdict="baseline" if t.variant.is_baseline else "cannot tell",
        )
        for place, t in enumerate(ordered, 1)
    ]


def pareto_front(trials: Sequence[Trial], goal: Goal | None = None) -> list[Trial]:
    """Return the trials that no other one beats in both mAP50-95 and cost, by cost.

    The cost is GFLOPs, or latency where the study looks for that.
    """
    cost = (goal or Goal()).cost
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (cost(t), -t.map, t.number)):
        if not front or trial.map > front[-1].map:
            front.append(trial)
    return front


COLUMNS = (
    "rank", "id", "swaps", "map50_95", "delta_map50_95", "map50", "gflops", "delta_gflops_percent", "params",
    "map50_95_per_gflop", "score", "below_floor", "on_front", "seeds", "interval_low", "interval_high", "verdict",
    "stock_counter_gflops", "latency_ms", "distillation_error", "inherited_tensors", "tensors", "seed", "epochs",
    "seconds",
)  # fmt: skip
"""Columns of the exported table, in order."""


def export_rows(rows: Sequence[RankRow]) -> list[dict[str, object]]:
    """Return the ranking as plain rows of `COLUMNS`; None where there is nothing to say."""
    return [
        dict(
            zip(
                COLUMNS,
                (
                    r.rank,
                    r.trial.variant.id,
                    r.trial.describe(),
                    round(r.trial.map, 5),
                    None if r.delta_map is None else round(r.delta_map, 5),
                    round(r.trial.map50, 5),
                    round(r.trial.gflops, 4),
                    None if r.delta_gflops is None else round(100 * r.delta_gflops, 2),
                    r.trial.params,
                    round(r.trial.map_per_gflop, 6),
                    r.trial.score,
                    r.below_floor,
                    r.on_front,
                    r.seeds,
                    r.interval[0] if r.interval else None,
                    r.interval[1] if r.interval else None,
                    r.verdict,
                    round(r.trial.stock_gflops, 4),
                    None if r.trial.latency_ms is None else round(r.trial.latency_ms, 3),
                    None if r.trial.distillation is None else round(r.trial.distillation, 4),
                    *r.trial.inherited,
                    r.trial.seed,
                    r.trial.curve[-1].epoch,
                    round(r.trial.seconds, 1),
                ),
                strict=True,
            )
        )
        for r in rows
    ]


def to_csv(rows: Sequence[RankRow]) -> str:
    """Return the ranking as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(export_rows(rows))
    return text.getvalue()
