"""Replicates: the runs of a variant under several seeds, their mean, and their paired differences to the baseline.

A seed decides everything random in a run: initial values of new modules, data order, augmentation, and the bank that
the variant is assembled from. Its common effect on all variants cancels in the difference to the baseline under the
same seed; so a variant's mean is the baseline's mean, over all its seeds, plus the mean of these differences. Plain
means would compare variants with lucky seeds to variants with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nas.space.variant import Variant
from nas.study.trial import Trial

_FIRST = ("done", "running", "failed", "rejected", "interrupted")
"""Order in which a variant's runs are chosen to represent it."""


def group_by_variant(trials: Iterable[Trial]) -> dict[Variant, list[Trial]]:
    """Return the runs of each variant by seed, variants in order of appearance; `trials` are of one fidelity."""
    found: dict[Variant, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.variant, []).append(trial)
    return {variant: sorted(runs, key=lambda t: (t.seed, t.number)) for variant, runs in found.items()}


def scores_by_seed(runs: Iterable[Trial]) -> dict[int, float]:
    """Return the finished scores of one variant, by seed."""
    return {t.seed: t.map for t in runs if t.status == "done"}


def paired_differences(own: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Return a variant's scores minus the baseline's, under their common seeds."""
    return [own[seed] - baseline[seed] for seed in sorted(own.keys() & baseline.keys())]


def pool_replicates(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial a variant: its first finished run, with the mean of mAP50-95 where there are several seeds.

    Args:
        trials: Of one study at one fidelity, any number of runs of each variant.
    """
    groups = group_by_variant(trials)
    base = next((scores_by_seed(runs) for variant, runs in groups.items() if variant.is_baseline), {})
    found = []
    for runs in groups.values():
        pooled = min(runs, key=lambda t: _FIRST.index(t.status))
        own = scores_by_seed(runs)
        if own and own.keys() | base.keys() != {pooled.seed}:
            seeds = len(own.keys() & base.keys()) or len(own)
            pooled = replace(pooled, pooled=paired_mean(own, base), seeds=seeds)
        found.append(pooled)
    return found


def paired_mean(own: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """Return a variant's mean, adjusted by the baseline's over all its seeds; its plain mean without a common seed."""
    paired = paired_differences(own, baseline)
    if not paired or own.keys() == baseline.keys():
        return _mean(own.values())
    return _mean(baseline.values()) + _mean(paired)


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
