"""Several seeds of a variant as one: its runs together, its mean, and its differences to the baseline, seed by seed.

A seed decides everything random in a run: initial values of new modules, data order, augmentation, and the bank that
the variant is assembled from. What it does to all variants alike cancels in the difference to the baseline under the
same seed; so a variant's mean is the baseline's mean, over all its seeds, plus the mean of these differences. Plain
means would set variants with a lucky seed against variants with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nas.space.variant import Variant
from nas.study.trial import Trial

_FIRST = ("done", "running", "failed", "rejected", "interrupted")
"""Which of a variant's runs stands for it."""


def runs_of(trials: Iterable[Trial]) -> dict[Variant, list[Trial]]:
    """Return the runs of each variant by seed, variants in order of appearance; `trials` are of one fidelity."""
    found: dict[Variant, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.variant, []).append(trial)
    return {variant: sorted(runs, key=lambda t: (t.seed, t.number)) for variant, runs in found.items()}


def scores_of(runs: Iterable[Trial]) -> dict[int, float]:
    """Return the finished scores of one variant, by seed."""
    return {t.seed: t.map for t in runs if t.status == "done"}


def differences(own: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Return a variant's scores minus the baseline's, under the seeds that both have."""
    return [own[seed] - baseline[seed] for seed in sorted(own.keys() & baseline.keys())]


def pool_seeds(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial a variant: its first finished run, with the mean of mAP50-95 where there are several seeds.

    Args:
        trials: Of one study at one fidelity, any number of runs of each variant.
    """
    groups = runs_of(trials)
    base = next((scores_of(runs) for variant, runs in groups.items() if variant.is_baseline), {})
    found = []
    for runs in groups.values():
        stands = min(runs, key=lambda t: _FIRST.index(t.status))
        own = scores_of(runs)
        if own and own.keys() | base.keys() != {stands.seed}:
            stands = replace(stands, pooled=mean_of(own, base))
        found.append(stands)
    return found


def mean_of(own: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """Return a variant's mean, set against the baseline's under all its seeds; without a common one it is its own."""
    paired = differences(own, baseline)
    if not paired or own.keys() == baseline.keys():
        return _mean(own.values())
    return _mean(baseline.values()) + _mean(paired)


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
