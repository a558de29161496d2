"""The ranking: which variants are worth their GFLOPs, with the uncertainty.

Variants are ordered by mAP50-95 per GFLOP, or by another objective of the study (`nas.study.objective`). That order
alone favours the smallest model, so a variant that clearly loses more than the study's floor against the baseline ranks
below all that do not, and each row has the difference to the baseline under the same seeds, its interval, a verdict
(`nas.ranking.verdict`) and membership of the Pareto front. With one seed a variant the verdict is *cannot tell*.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.ranking.replicates import group_by_variant, paired_differences, paired_mean, pool_replicates, scores_by_seed
from nas.ranking.verdict import LEAST_SEEDS, Comparison, compare, interval_of_mean
from nas.space.variant import Variant
from nas.study.objective import Goal, Prior
from nas.study.trial import Trial

if TYPE_CHECKING:
    from nas.study.study import Study


@dataclass(frozen=True)
class RankRow:
    """One variant of a ranking.

    Attributes:
        rank: From 1.
        trial: Represents all its runs: the first finished one, with the mean of mAP50-95 over seeds
            (`nas.ranking.replicates`).
        delta_map: mAP50-95 minus the baseline's, the mean over their common seeds; None without any.
        delta_gflops: GFLOPs over the baseline's, minus 1; None without a baseline.
        below_floor: True if it clearly loses more than the floor, by its whole interval if there is one; or has less
            than the required mAP.
        on_front: True if it is Pareto-optimal in mAP and cost.
        seeds: Number of seeds under which both it and the baseline have been trained.
        interval: 95 % interval of `delta_map`; None if the error is unknown.
        verdict: ``baseline``, ``better``, ``worse`` or ``cannot tell``; the last one with fewer than two seeds.
        map_interval: 95 % interval of the mean mAP50-95 over seeds; None with fewer than two.
        map50: Mean mAP50, adjusted by the baseline's seeds as mAP50-95 is.
        p: As `nas.ranking.verdict.Comparison.p`.
        shrunk: As `nas.ranking.verdict.Comparison.shrunk`.
        runs: Its finished runs, by seed.
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
    map_interval: tuple[float, float] | None = None
    map50: float = 0.0
    p: float | None = None
    shrunk: float | None = None
    runs: tuple[Trial, ...] = ()


def baseline_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial of the baseline, if there is one."""
    return next((t for t in trials if t.status == "done" and t.variant.is_baseline), None)


def rank_trials(
    trials: Sequence[Trial], floor: float, goal: Goal | None = None, prior: Prior | None = None
) -> list[RankRow]:
    """Return the finished variants, best first.

    Args:
        trials: Of one study.
        floor: mAP50-95 that a variant may lose against the baseline.
        goal: What the study optimises; by default mAP per GFLOP.
        prior: The error that a calibration measured.
    """
    goal = goal or Goal()
    runs = {v: tuple(t for t in own if t.status == "done") for v, own in group_by_variant(trials).items()}
    done = [t for t in pool_replicates(trials) if t.status == "done"]
    base = baseline_of(done)
    least = base.map - floor if base else 0.0
    compared = _compared(done, runs[base.variant] if base else (), runs, prior)

    def below(trial: Trial) -> bool:
        interval = compared[trial.number].interval
        return trial.map < goal.min_map or (trial.map < least and (interval is None or interval[1] < -floor))

    ordered = goal.order(done, below)
    front = {t.number for t in pareto_front(done, goal)}
    base_map50 = {r.seed: r.map50 for r in runs[base.variant]} if base else {}
    found = []
    for place, t in enumerate(ordered, 1):
        is_base, own, c = t.variant.is_baseline, runs[t.variant], compared[t.number]
        found.append(
            RankRow(
                rank=place,
                trial=t,
                delta_map=0.0 if is_base else c.delta,
                delta_gflops=t.gflops / base.gflops - 1 if base else None,
                below_floor=below(t),
                on_front=t.number in front,
                seeds=c.seeds if base and not is_base else len(own),
                interval=c.interval,
                verdict="baseline" if is_base else c.verdict,
                map_interval=_around(t.map, interval_of_mean([r.map for r in own])),
                map50=paired_mean({r.seed: r.map50 for r in own}, base_map50),
                p=c.p,
                shrunk=c.shrunk,
                runs=own,
            )
        )
    return found


def confirmed_winner(rows: Sequence[RankRow]) -> RankRow:
    """Return the winner of a confirmed ranking, not empty: its first row with several seeds.

    Rows with one seed may rank above it by selection bias (the winner's curse). If no variant has several seeds, or all
    of those are below the floor, it is the first row.
    """
    again = [row for row in rows if len(row.runs) >= LEAST_SEEDS]
    confirmed = any(not row.trial.variant.is_baseline for row in again)
    return next((row for row in again if confirmed and not row.below_floor), rows[0])


def ranking_of(study: Study, fidelity: str = "") -> list[RankRow]:
    """Return the current ranking of a study; with a fidelity, that of a lower rung."""
    s = study.settings.at(fidelity)
    return rank_trials(study.trials(fidelity), s.floor, s.goal, s.prior)


def _compared(
    done: Sequence[Trial], base: Sequence[Trial], runs: dict[Variant, tuple[Trial, ...]], prior: Prior | None
) -> dict[int, Comparison]:
    """Return every variant's comparison with the baseline, by the number of its trial; the baseline's own is empty."""
    theirs = scores_by_seed(base)
    others = [t for t in done if not t.variant.is_baseline]
    found = compare([paired_differences(scores_by_seed(runs[t.variant]), theirs) for t in others], prior)
    nothing = {t.number: Comparison(0, None) for t in done}
    return nothing | {t.number: c for t, c in zip(others, found, strict=True)}


def _around(mean: float, interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return an interval of the same width around a mean that is adjusted for its seeds."""
    half = (interval[1] - interval[0]) / 2 if interval else 0.0
    return (mean - half, mean + half) if interval else None


def pareto_front(trials: Sequence[Trial], goal: Goal | None = None) -> list[Trial]:
    """Return the Pareto-optimal trials in mAP50-95 and cost, by cost: GFLOPs, or latency if that is an objective."""
    cost = (goal or Goal()).cost
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (cost(t), -t.map, t.number)):
        if not front or trial.map > front[-1].map:
            front.append(trial)
    return front


COLUMNS = (
    "rank", "id", "swaps", "map50_95", "delta_map50_95", "map50", "gflops", "delta_gflops_percent", "params",
    "map50_95_per_gflop", "score", "below_floor", "on_front", "seeds", "interval_low", "interval_high", "verdict",
    "p_holm", "delta_shrunk", "map50_95_low", "map50_95_high", "stock_counter_gflops", "latency_ms",
    "distillation_error", "inherited_tensors", "tensors", "seed_list", "epochs", "seconds",
)  # fmt: skip
"""Columns of the exported table, in order. `interval_low` and `interval_high` are those of the difference."""


def export_rows(rows: Sequence[RankRow]) -> list[dict[str, object]]:
    """Return the ranking as plain rows of `COLUMNS`; None where a value is unknown."""
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
                    round(r.map50, 5),
                    round(r.trial.gflops, 4),
                    None if r.delta_gflops is None else round(100 * r.delta_gflops, 2),
                    r.trial.params,
                    round(r.trial.map_per_gflop, 6),
                    r.trial.score,
                    r.below_floor,
                    r.on_front,
                    r.seeds,
                    *_ends(r.interval),
                    r.verdict,
                    None if r.p is None else float(f"{r.p:.4g}"),
                    None if r.shrunk is None else round(r.shrunk, 5),
                    *_ends(r.map_interval),
                    round(r.trial.stock_gflops, 4),
                    None if r.trial.latency_ms is None else round(r.trial.latency_ms, 3),
                    None if r.trial.distillation is None else round(r.trial.distillation, 4),
                    *r.trial.inherited,
                    " ".join(str(t.seed) for t in r.runs),
                    r.trial.curve[-1].epoch,
                    round(sum(t.seconds for t in r.runs), 1),
                ),
                strict=True,
            )
        )
        for r in rows
    ]


def _ends(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """Return the rounded ends of an interval."""
    return (round(interval[0], 5), round(interval[1], 5)) if interval else (None, None)


def to_csv(rows: Sequence[RankRow]) -> str:
    """Return the ranking as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(export_rows(rows))
    return text.getvalue()
