"""The ranking of full trainings: the same statistics as among proxies, on the mAP50-95 of ``best.pt``.

Runs of one group (`nas.full.run.FullRun.group`) are compared: the same data, epochs, image size, initial weights and
arguments. The seed is that of the host's training, so a difference is between two trainings of the same seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.calibration.given import GivenFull
from nas.calibration.rank_agreement import Agreement, agreement, at_equal_cost
from nas.calibration.resolution import Interval
from nas.data.sizes import SIZES
from nas.full.run import FullRun
from nas.ranking.replicates import paired_differences, paired_mean, pool_replicates
from nas.ranking.verdict import Comparison, compare, interval_of_mean
from nas.training.jobs import ProxyResult
from nas.training.scores import EpochScore, Validation

if TYPE_CHECKING:
    from nas.study.study import Study

LEAST_VARIANTS = 4
"""Number of variants with a full training from which on the agreement with the proxy is stated."""


@dataclass(frozen=True)
class Value:
    """A mean over seeds and its standard deviation; that is None with one seed."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class FullRow:
    """One model of a ranking of full trainings.

    Attributes:
        rank: From 1.
        run: Represents its runs: the first.
        runs: Its finished runs, by seed.
        map: mAP50-95, the mean adjusted by the baseline's seeds (`nas.ranking.replicates.paired_mean`).
        comparison: With the baseline of the same seeds; empty for the baseline itself.
        verdict: ``baseline``, or that of the comparison.
        delta_gflops: GFLOPs over the baseline's, minus 1; None without a baseline.
        below_floor: True if it clearly loses more than the study's floor.
        on_front: True if no other has more mAP50-95 and fewer GFLOPs.
    """

    rank: int
    run: FullRun
    runs: tuple[FullRun, ...]
    map: float
    comparison: Comparison
    verdict: str
    delta_gflops: float | None
    below_floor: bool
    on_front: bool

    @property
    def map_per_gflop(self) -> float:
        """mAP50-95 over GFLOPs."""
        return self.map / self.run.gflops if self.run.gflops else 0.0

    @property
    def values(self) -> dict[str, Value | None]:
        """Precision, recall, mAP50, mAP50-95, and mAP50-95 by size, over its seeds; None where there is none."""
        scores = [run.scores for run in self.runs if run.scores]
        return {
            "precision": _over_seeds([s.precision for s in scores]),
            "recall": _over_seeds([s.recall for s in scores]),
            "map50": _over_seeds([s.map50 for s in scores]),
            "map50_95": _over_seeds([s.map for s in scores]),
            **{size: _over_seeds([(s.sizes or {}).get(size) for s in scores]) for size in SIZES},
        }


def _over_seeds(values: Sequence[float | None]) -> Value | None:
    found = [value for value in values if value is not None]
    if not found:
        return None
    return Value(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)


def groups_of(runs: Iterable[FullRun]) -> dict[str, list[FullRun]]:
    """Return the finished runs by group, the last that was begun first."""
    found: dict[str, list[FullRun]] = {}
    for run in runs:
        if run.status == "done":
            found.setdefault(run.group, []).append(run)
    return dict(reversed(found.items()))


def rank_full(runs: Sequence[FullRun], floor: float, *, by_map: bool = False) -> list[FullRow]:
    """Return the models of one group of finished runs, best first.

    Args:
        runs: The runs.
        floor: mAP50-95 that a model may lose against the baseline before it is ranked below all that do not.
        by_map: Order by mAP50-95 instead of mAP50-95 per GFLOP.
    """
    models: dict[str, list[FullRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        models.setdefault(run.model, []).append(run)
    base = next((own for own in models.values() if own[0].kind == "baseline"), [])
    theirs = _scores(base)
    others = [own for own in models.values() if own is not base]
    compared = compare([paired_differences(_scores(own), theirs) for own in others])
    rows = [_row(own, base, c, floor) for own, c in zip(others, compared, strict=True)]
    if base:
        rows.append(_row(base, base, Comparison(0, None), floor))
    rows.sort(key=lambda row: (row.below_floor, -(row.map if by_map else row.map_per_gflop), row.run.model))
    return [_placed(row, place, rows) for place, row in enumerate(rows, 1)]


def _row(own: Sequence[FullRun], base: Sequence[FullRun], c: Comparison, floor: float) -> FullRow:
    scores, theirs = _scores(own), _scores(base)
    mean = paired_mean(scores, theirs)
    lost = bool(base) and mean < statistics.fmean(theirs.values()) - floor
    return FullRow(
        rank=0,
        run=own[0],
        runs=tuple(own),
        map=mean,
        comparison=c,
        verdict="baseline" if own is base else c.verdict,
        delta_gflops=own[0].gflops / base[0].gflops - 1 if base else None,
        below_floor=lost and (c.interval is None or c.interval[1] < -floor),
        on_front=False,
    )


def _placed(row: FullRow, place: int, rows: Sequence[FullRow]) -> FullRow:
    beaten = any(
        other.run.gflops <= row.run.gflops and other.map >= row.map and other is not row
        and (other.run.gflops, other.map) != (row.run.gflops, row.map)
        for other in rows
    )  # fmt: skip
    return FullRow(**{**vars(row), "rank": place, "on_front": not beaten})


def _scores(runs: Sequence[FullRun]) -> dict[int, float]:
    return {run.seed: run.map for run in runs}


def map_interval(row: FullRow) -> Interval | None:
    """Return the 95 % interval of the mean mAP50-95 over seeds; None with one."""
    return interval_of_mean([run.map for run in row.runs])


def full_scores(runs: Sequence[FullRun]) -> dict[str, float]:
    """Return the mean mAP50-95 of the newest group's variants and baseline by variant ID, trained without a teacher."""
    newest = next(iter(groups_of(runs).values()), [])
    rows = rank_full(newest, 1.0)
    return {row.run.model: row.map for row in rows if row.run.of_space and not row.run.distilled}


@dataclass(frozen=True)
class ProxyAgreement:
    """How the order of a study's proxies agrees with full training.

    Attributes:
        overall: Over all variants that have both.
        partial: Spearman between what GFLOPs leave of both orders; None if GFLOPs order one of them completely.
        partial_interval: Its 95 % interval; None if too few draws have one.
    """

    overall: Agreement
    partial: float | None
    partial_interval: Interval | None


def proxy_agreement(study: Study, runs: Sequence[FullRun]) -> ProxyAgreement | None:
    """Return how the order of the study's proxies agreed with full training; None below `LEAST_VARIANTS` variants."""
    import numpy as np

    full = full_scores(runs)
    proxies = {t.variant.id: t for t in pool_replicates(study.trials()) if t.status == "done"}
    common = [model for model in full if model in proxies]
    if len(common) < LEAST_VARIANTS or len({full[model] for model in common}) == 1:
        return None
    proxy = np.array([[proxies[model].map] for model in common])
    truth = np.array([[full[model]] for model in common])
    gflops = np.array([proxies[model].gflops for model in common])
    partial = at_equal_cost(proxy, truth, gflops)
    known = not math.isnan(partial.spearman)
    return ProxyAgreement(
        agreement(proxy, truth),
        partial.spearman if known else None,
        partial.spearman_interval if known else None,
    )


def given_full(study: Study, runs: Sequence[FullRun]) -> GivenFull:
    """Return full trainings of a study for a calibration: variants without a teacher, common seeds.

    They are the newest that are enough for one; the newest if none are.
    """
    found = [_given(study, group) for group in groups_of(runs).values()]
    return next((given for given in found if given.is_enough), found[0] if found else _given(study, []))


def _given(study: Study, group: Sequence[FullRun]) -> GivenFull:
    """Return the full trainings of one group."""
    newest = [r for r in group if r.of_space and not r.distilled]
    variants = tuple(dict.fromkeys(run.variant for run in sorted(newest, key=lambda run: run.kind)))
    seeds = [{run.seed for run in newest if run.variant == variant} for variant in variants]
    common = sorted(set.intersection(*seeds)) if seeds else []
    results = {
        (run.model, common.index(run.seed)): _as_result(run) for run in newest if run.seed in common and run.scores
    }
    return GivenFull(
        name=f"the full trainings of {study.shown}" + (f" ({newest[0].settings})" if newest else ""),
        key=newest[0].group if newest else "",
        epochs=newest[0].epochs if newest else 1,
        imgsz=newest[0].imgsz if newest else study.settings.recipe.imgsz,
        seeds=len(common),
        variants=variants,
        results=results,
    )


def _as_result(run: FullRun) -> ProxyResult:
    """Return a full training as a calibration reads it: its score is that of best.pt. It knows no losses."""
    scores = run.scores
    assert scores, "it is done"
    best = Validation(scores.map50, scores.map, 0.0)
    curve = tuple(EpochScore(e.epoch, 0.0, 0.0, Validation(e.map50, e.map, 0.0)) for e in run.curve[:-1])
    return ProxyResult((*curve, EpochScore(run.epochs, 0.0, 0.0, best)), best, run.inherited, run.seconds, run.seconds)
