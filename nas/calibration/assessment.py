"""Assess a calibration: compare every score of every proxy with full training, and choose a proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.calibration.calibrator import FULL, TUNED, Calibration, Calibrator, control_of
from nas.calibration.choose import ProxyMerit, choose_proxy
from nas.calibration.equal_cost import CostRow, cost_rows, gflops_of
from nas.calibration.rank_agreement import Agreement, agreement, ceiling
from nas.calibration.resolution import Merit, attainable, in_map_units, merit
from nas.calibration.result import DEFAULT_SCORE, RESULT_SCHEMA
from nas.calibration.run_log import Finished, Run
from nas.errors import CalibrationError
from nas.space.variant import Variant
from nas.training.recipe import Recipe
from nas.training.scores import SCORES

OVER_CONTROL = " over control"
"""Suffix of scores that compare each variant with its control: the original layers, distilled in the same way."""
RANKABLE = tuple(name for name, score in SCORES.items() if score.ranks)
"""Scores that can rank a study: those that are an mAP."""
FULL_NAMES = {FULL: "full training from scratch", TUNED: "full training from trained weights"}
"""Names of the kinds of full training, for readers."""
FULL_SCORE = "map_average"
"""Score of full training: the plain mAP varies more between epochs than between variants."""
SELF_AGREEMENT = 0.3
"""Minimum Spearman between seeds of full training for a score of it to be the reference."""
DIFFERENCE = 0.005
"""Difference of mAP50-95 that a proxy should resolve: the size of published effects of swaps."""


@dataclass(frozen=True)
class Assessment:
    """The assessment of a calibration.

    Attributes:
        calibration: The calibration.
        variants: The trained variants, the baseline first.
        full: mAP50-95 of full training, (variants, seeds), with averaged weights, which vary least. NaN for failures.
        full_minutes: CPU minutes of one full training.
        full_merit: Merit of full training itself.
        reference: The score of full training with which proxies are compared (`reference_of`); `full_merit`, `ceiling`
            and `attainable` are of this score.
        judged: Its values, (variants, seeds).
        ceiling: Agreement of one seed of full training with another; None with one seed.
        attainable: Spearman that a perfect proxy could reach with the mean of these seeds; None with one.
        merits: The merit of every score of every proxy.
        tables: Proxy and score to its values, (variants, seeds); NaN for failures.
        chosen: The chosen proxy and score, and `reason`, the explanation.
        drops: Slot to the mAP50-95 lost when the layer's output is replaced by its channel means.
        errors: Slot and label to the distillation error, the mean over the banks.
        tuned: As `full`, of full training from trained weights; None without it.
        tuned_minutes: CPU minutes of one of these.
        rows: Agreement of the GFLOPs and of each proxy, by the score that ranks without a calibration, with each kind
            of full training; empty where it could not be computed.
    """

    calibration: Calibration
    variants: tuple[Variant, ...]
    full: np.ndarray
    full_minutes: float
    full_merit: Merit | None
    reference: str
    judged: np.ndarray
    ceiling: Agreement | None
    attainable: float | None
    merits: tuple[ProxyMerit, ...]
    tables: Mapping[str, Mapping[str, np.ndarray]]
    chosen: ProxyMerit
    reason: str
    drops: Mapping[str, float]
    errors: Mapping[tuple[str, str], float]
    tuned: np.ndarray | None = None
    tuned_minutes: float = 0.0
    rows: tuple[CostRow, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the chosen proxy."""
        return dict(self.calibration.proxies)[self.chosen.proxy]

    def best(self, proxy: str) -> ProxyMerit:
        """Return the score of a proxy in `RANKABLE` that resolves the most for its cost."""
        own = [m for m in self.merits if m.proxy == proxy and m.score in RANKABLE]
        return choose_proxy(own, self.ceiling.spearman if self.ceiling else None, difference=DIFFERENCE)[0]

    def _points(self, proxy: str) -> tuple[str, dict[str, Any]]:
        """Return the name of a proxy, and its best score with the values of each variant."""
        best = self.best(proxy)
        return proxy, {"score": best.score, "values": self._plain(self.tables[proxy][best.score])}

    def _plain(self, table: np.ndarray) -> dict[str, list[float | None]]:
        """Return a table as a list a variant, by its ID; None for failures."""
        rows = ([None if np.isnan(x) else round(float(x), 5) for x in row] for row in table)
        return {v.id: row for v, row in zip(self.variants, rows, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what ``nas search --proxy`` reads is under ``chosen``."""
        chosen = self.chosen
        return {
            "schema": RESULT_SCHEMA,
            "chosen": {
                "proxy": chosen.proxy,
                "score": chosen.score,
                "reason": self.reason,
                "recipe": self.recipe.to_json(),
                "error": chosen.merit.error,
                "resolution": chosen.merit.resolution(),
                "spread": chosen.merit.spread,
                "spearman": chosen.agreement.spearman,
                "spearman_interval": chosen.agreement.spearman_interval,
                "minutes": chosen.minutes,
                "variants": len(self.variants),
                "seeds": self.calibration.seeds,
            },
            "calibration": self.calibration.to_json(),
            "full": {
                "minutes": self.full_minutes,
                "reference": self.reference,
                "ceiling": self.ceiling.spearman if self.ceiling else None,
                "attainable": self.attainable,
                "map": self._plain(self.full),
            },
            "tuned": None if self.tuned is None else {"minutes": self.tuned_minutes, "map": self._plain(self.tuned)},
            "agreement": [row.to_json() for row in self.rows],
            "variants": {v.id: v.describe() for v in self.variants},
            "merits": [m.to_json() for m in self.merits],
            "points": {
                "full": self._plain(self.judged),
                "proxies": dict(map(self._points, dict(self.calibration.proxies))),
            },
            "drops": dict(self.drops),
            "distillation": {
                f"{slot}={label}": round(e, 4) if np.isfinite(e) else None for (slot, label), e in self.errors.items()
            },
        }


def assess(calibrator: Calibrator) -> Assessment:
    """Assess a calibration whose runs are finished.

    Raises:
        CalibrationError: Too few runs have succeeded.
    """
    calibration = calibrator.calibration
    there = calibrator.file.read()
    variants = calibration.tested

    def found(run: Run) -> Finished | None:
        return there.get(calibrator.key(run))

    def runs_of(name: str, recipe: Recipe) -> list[list[Finished | None]]:
        return [[found(Run(name, recipe, v, s)) for s in range(calibration.full_seeds)] for v in variants]

    full_runs = runs_of(FULL, calibration.full)
    full = _matrix(full_runs, FULL_SCORE)
    reference, judged = _judged(full_runs)
    tuned_runs = runs_of(TUNED, calibration.tuned) if calibration.tuned else []
    merits: list[ProxyMerit] = []
    kept: dict[str, dict[str, np.ndarray]] = {}
    once = _once_minutes(calibrator)
    for name, recipe in calibration.proxies:
        seeds = range(calibration.seeds)
        runs = [[found(Run(name, recipe, v, s)) for s in seeds] for v in variants]
        # Without training the other scores are the same as these.
        measured = [name for name, score in SCORES.items() if recipe.epochs or score.untrained]
        tables = {score: _matrix(runs, score) for score in measured}
        if recipe.init == "bank":
            controls = [
                [found(Run(name, recipe, variants[0], s, control_of(calibration, v))) for s in seeds] for v in variants
            ]
            for score in measured:  # what a variant adds to its control, on top of the baseline
                over = tables[score] - _matrix(controls, score) + tables[score][:1]
                tables[score + OVER_CONTROL] = np.where(np.arange(len(variants))[:, None] > 0, over, tables[score][:1])
        try:
            merits += _merits(name, runs, tables, judged, once[name], _seconds(runs, recipe))
        except ValueError as error:
            raise CalibrationError(f"the runs of {name} cannot be assessed: {error}") from None
        kept[name] = tables
    calibrated = [m for m in merits if m.score in RANKABLE]
    top = ceiling(judged) if calibration.full_seeds > 1 else None
    chosen, reason = choose_proxy(calibrated, top.spearman if top else None, difference=DIFFERENCE)
    drops, errors = _banks(calibrator)
    return Assessment(
        calibration=calibration,
        variants=variants,
        full=full,
        full_minutes=_mean_minutes(full_runs, calibration.full),
        full_merit=merit(judged) if calibration.full_seeds > 1 else None,
        reference=reference,
        judged=judged,
        ceiling=top,
        attainable=attainable(judged) if calibration.full_seeds > 1 else None,
        merits=tuple(merits),
        tables=kept,
        chosen=chosen,
        reason=reason,
        drops=drops,
        errors=errors,
        tuned=_matrix(tuned_runs, FULL_SCORE) if tuned_runs else None,
        tuned_minutes=_mean_minutes(tuned_runs, calibration.full),
        rows=_rows(variants, kept, {FULL: full_runs, **({TUNED: tuned_runs} if tuned_runs else {})}),
    )


def _judged(full_runs: list[list[Finished | None]]) -> tuple[str, np.ndarray]:
    """Return the score of full training that is the reference, and its values, (variants, seeds)."""
    reference = reference_of({score: _matrix(full_runs, score) for score in (FULL_SCORE, "val_loss")})
    return reference, _matrix(full_runs, reference)


def _rows(
    variants: tuple[Variant, ...],
    proxies: Mapping[str, Mapping[str, np.ndarray]],
    full: Mapping[str, list[list[Finished | None]]],
) -> tuple[CostRow, ...]:
    """Return the agreement of all orders with each kind of full training; empty where it cannot be computed."""
    judged = {FULL_NAMES[name]: _judged(runs) for name, runs in full.items()}
    orders = {(name, reference): values for name, (reference, values) in judged.items()}
    for name, tables in proxies.items():
        score = DEFAULT_SCORE if DEFAULT_SCORE in tables else "map"
        orders[name, score] = tables[score]
    try:
        truth = {name: values for name, (_, values) in judged.items()}
        return cost_rows(orders, truth, np.array([gflops_of(v) for v in variants]))
    except ValueError:  # too few runs of full training from trained weights
        return ()


def reference_of(full: Mapping[str, np.ndarray]) -> str:
    """Return the score of full training that is the reference for proxies: its mAP, unless that is too noisy.

    If the mAP hardly agrees between seeds (a Spearman below `SELF_AGREEMENT`), and the validation loss agrees better,
    the loss is the reference. The choice does not depend on any proxy.

    Args:
        full: Score to values, (variants, seeds), mAP first.
    """
    first, *others = full
    if full[first].shape[1] < 2:
        return first
    own = {}
    for score, values in full.items():
        try:
            found = ceiling(values)
            own[score] = found.spearman if found else -1.0
        except ValueError:
            own[score] = -1.0
    best = max(others, key=lambda score: own[score], default=first)
    return best if own[first] < SELF_AGREEMENT < own[best] else first


def _matrix(runs: list[list[Finished | None]], score: str) -> np.ndarray:
    """Return a score as (variants, seeds); NaN where a run failed or is missing."""
    return np.array([[(r.scores.get(score, np.nan) if r else np.nan) for r in row] for row in runs], dtype=float)


def _seconds(runs: list[list[Finished | None]], recipe: Recipe) -> list[float]:
    """Return the cost of runs: CPU seconds of all threads, or wall seconds on a GPU."""
    found = [r.result for row in runs for r in row if r and r.result]
    return [r.cpu_seconds if recipe.device == "cpu" else r.seconds for r in found]


def _mean_minutes(runs: list[list[Finished | None]], recipe: Recipe) -> float:
    """Return the mean cost of runs in minutes; 0 if there are none."""
    seconds = _seconds(runs, recipe)
    return sum(seconds) / len(seconds) / 60 if seconds else 0.0


def _merits(
    name: str,
    runs: list[list[Finished | None]],
    tables: Mapping[str, np.ndarray],
    full: np.ndarray,
    once: float,
    seconds: list[float],
) -> list[ProxyMerit]:
    """Return the merit of every score of one proxy."""
    failures = sum(r is None or r.result is None for row in runs for r in row)
    found = []
    for score, own in tables.items():
        in_map, scale = (own, 1.0) if score.startswith("map") else in_map_units(own, tables["map"])
        found.append(
            ProxyMerit(
                proxy=name,
                score=score,
                merit=merit(in_map),
                agreement=agreement(in_map, full),
                agreement_mean=agreement(in_map, full, mean_of_seeds=True),
                minutes=sum(seconds) / len(seconds) / 60,
                once_minutes=once,
                failures=failures,
                scale=scale,
            )
        )
    return found


def _once_minutes(calibrator: Calibrator) -> dict[str, float]:
    """Return the CPU minutes that each proxy costs once per study: for its baseline, and for one bank."""
    found = {}
    for name, recipe in calibrator.calibration.proxies:
        seconds = 0.0
        if recipe.init in ("baseline", "bank"):
            seconds += calibrator.weights.baseline(recipe).cpu_seconds
        if recipe.init == "bank":
            seconds += calibrator.bank(recipe, 0).cpu_seconds
        found[name] = seconds / 60
    return found


def _banks(calibrator: Calibrator) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Return the drop of each slot, and the mean distillation error of each candidate, from the banks."""
    recipes = [r for _, r in calibrator.calibration.proxies if r.init == "bank"]
    if not recipes:
        return {}, {}
    banks = [calibrator.bank(recipes[-1], seed) for seed in range(calibrator.calibration.seeds)]
    errors = {
        swap: float(np.mean([b.candidates[swap].error for b in banks if swap in b.candidates]))
        for swap in banks[0].candidates
    }
    return banks[0].drops, errors
