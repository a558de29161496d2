"""Effects of each swap, module and slot on mAP and on GFLOPs, over all finished variants.

A variant's score is modelled as the baseline's plus an effect of each swap, plus an interaction of each pair of swaps
that was observed more than once (`nas.ranking.additive`). Effects are posterior means under a prior with mean zero, so
that few and noisy scores claim little, with credible intervals. A module's effect is the mean over the slots in which
it was tried, a slot's the mean over its choices that were. Verdicts on mAP are corrected by Holm's procedure over all
swaps, modules and slots together, and those on pairs over all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from nas.errors import StudyError
from nas.ranking.additive import AdditiveModel, Estimate, fit_both, fit_sums
from nas.ranking.grouped_scores import GroupedScores, SwapKey, observations_of
from nas.ranking.replicates import pool_replicates
from nas.ranking.verdict import LEVEL, holm
from nas.space.choice import parse_choice
from nas.space.search_space import Slot
from nas.study.trial import Trial

_REACH = float(special.ndtri(0.975))
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Effect:
    """An effect, against keeping the layers as they are.

    Attributes:
        kind: ``swap``, ``module`` or ``slot``.
        name: Slot and label, a module, or a slot.
        variants: Number of variants that have it.
        map: Effect on mAP50-95, and its 95 % `map_interval`.
        gflops: Effect on GFLOPs, and its 95 % `gflops_interval`, which is wide where GFLOPs do not add up.
        p: Probability of such an effect on mAP without a true one, corrected for all effects.
        verdict: ``better``, ``worse`` or ``cannot tell``, of mAP.
        mixed_with: Confounded swaps: those tried only together with it, so that their effects cannot be separated.
    """

    kind: Literal["swap", "module", "slot"]
    name: str
    variants: int
    map: float
    map_interval: tuple[float, float]
    gflops: float
    gflops_interval: tuple[float, float]
    p: float
    verdict: str
    mixed_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interaction:
    """What two swaps add together beyond the sum of their effects.

    Attributes:
        swaps: Both.
        variants: Number of variants that have both.
        map: mAP50-95 beyond the sum, and its 95 % `interval`.
        p: Probability of that without a true one, corrected for all pairs.
        verdict: ``more``, ``less`` or ``cannot tell``.
    """

    swaps: tuple[str, str]
    variants: int
    map: float
    interval: tuple[float, float]
    p: float
    verdict: str


@dataclass(frozen=True)
class Effects:
    """All of a study.

    Attributes:
        variants: Number of finished ones, with the baseline.
        effects: The highest mAP first, by kind.
        interactions: The surest first; of pairs that at least two variants have, of many variants only the
            `nas.ranking.grouped_scores.MOST_PAIRS` that occur most often.
        untried: Swaps that no finished variant has.
        pairs: Number of pairs that at least two variants have.
    """

    variants: int
    effects: tuple[Effect, ...]
    interactions: tuple[Interaction, ...]
    untried: tuple[str, ...]
    pairs: int = 0

    def of(self, kind: str) -> list[Effect]:
        """Return the effects of a kind."""
        return [e for e in self.effects if e.kind == kind]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the number of pairs only where it is not that of `interactions`."""
        body = asdict(self)
        if self.pairs == len(self.interactions):
            del body["pairs"]
        return body

    def confounded(self) -> list[tuple[str, ...]]:
        """Return the groups of swaps that are confounded with each other, directly or by way of others."""
        left = {e.name: set(e.mixed_with) for e in self.of("swap") if e.mixed_with}
        groups = []
        while left:
            group, reached = [], [next(iter(left))]
            while reached:
                name = reached.pop()
                if name in left:
                    group.append(name)
                    reached += left.pop(name)
            groups.append(tuple(sorted(group)))
        return groups


def estimate_effects(trials: Sequence[Trial], slots: Sequence[Slot], error: float | None = None) -> Effects:
    """Estimate the effects from a study's finished variants, each of them the mean over its seeds.

    Args:
        trials: Of one study.
        slots: Of its space.
        error: Standard deviation of one score, where a calibration measured it.

    Raises:
        StudyError: No variant other than the baseline has finished.
    """
    done = [t for t in pool_replicates(trials) if t.status == "done"]
    if not any(not t.variant.is_baseline for t in done):
        raise StudyError("no variant other than the baseline has finished: there is no effect to estimate yet")
    every = [(slot.key, label) for slot in slots for label in slot.choices[1:]]
    having = {swap: {i for i, t in enumerate(done) if t.assignment.get(swap[0]) == swap[1]} for swap in every}
    tried = [swap for swap in every if having[swap]]
    data = GroupedScores(observations_of(done), slots, error)
    plain, paired, helps = fit_both(data)
    model = paired if helps[-1] else plain
    cost = fit_sums([(t.assignment, t.gflops) for t in done], slots)
    mixed = _mixed(tried, having, len(done))
    sought: list[tuple[Literal["swap", "module", "slot"], str, list[SwapKey]]] = []
    for swap in tried:
        sought.append(("swap", _name(swap), [swap]))
    for module in dict.fromkeys(parse_choice(label).module for _, label in tried):
        sought.append(("module", module, [s for s in tried if parse_choice(s[1]).module == module]))
    for slot in slots:
        sought.append(("slot", slot.key, [s for s in tried if s[0] == slot.key]))
    sought = [entry for entry in sought if entry[2]]
    on_map = [model.contrast(_even(swaps)) for _, _, swaps in sought]
    found = []
    for (kind, name, swaps), effect, p in zip(sought, on_map, holm(_chances(on_map)), strict=True):
        on_cost = cost.contrast(_even(swaps))
        others = sorted({_name(o) for swap in swaps for o in mixed.get(swap, ()) if o not in swaps})
        verdict = "cannot tell" if p >= LEVEL or others else "better" if effect.mean > 0 else "worse"
        numbers = (effect.mean, _interval(effect), on_cost.mean, _interval(on_cost))
        variants = len(set().union(*(having[swap] for swap in swaps)))
        found.append(Effect(kind, name, variants, *numbers, float(p), verdict, tuple(others)))
    return Effects(
        variants=len(done),
        effects=tuple(sorted(found, key=lambda e: (("module", "slot", "swap").index(e.kind), -e.map, e.name))),
        interactions=_interactions(paired, having),
        pairs=data.pair_count,
        untried=tuple(_name(swap) for swap in every if not having[swap]),
    )


def _interactions(paired: AdditiveModel, having: Mapping[SwapKey, set[int]]) -> tuple[Interaction, ...]:
    """Return the interaction of each pair of swaps that the model has learnt."""
    pairs = paired.interactions()
    found = []
    for ((one, other), beyond), p in zip(pairs, holm(_chances([b for _, b in pairs])), strict=True):
        verdict = "cannot tell" if p >= LEVEL else "more" if beyond.mean > 0 else "less"
        both = len(having[one] & having[other])
        found.append(Interaction((_name(one), _name(other)), both, beyond.mean, _interval(beyond), float(p), verdict))
    return tuple(sorted(found, key=lambda i: (i.p, -round(abs(i.map), 9), i.swaps)))


def _mixed(tried: Sequence[SwapKey], having: Mapping[SwapKey, set[int]], variants: int) -> dict[SwapKey, list[SwapKey]]:
    """Return, for each swap whose effect is not identifiable, the swaps that it is confounded with.

    Two swaps are confounded if a change of effects that leaves all scores as they are changes both: these changes are
    the null space of the design, whose first column is the baseline.
    """
    design = np.zeros((variants, 1 + len(tried)))
    design[:, 0] = 1
    for column, swap in enumerate(tried, 1):
        design[list(having[swap]), column] = 1
    triangle = np.linalg.qr(design, mode="r") if variants > design.shape[1] else design  # with the same null space
    _, sizes, turned = np.linalg.svd(triangle)
    null = turned[int((sizes > _ROUNDING * sizes.max()).sum()) :, 1:]
    shared = np.abs(null.T @ null) > _ROUNDING
    return {
        s: [o for o, same in zip(tried, row, strict=True) if same and o != s]
        for s, row in zip(tried, shared, strict=True)
    }


def _chances(effects: Sequence[Estimate]) -> np.ndarray:
    """Return the two-sided probability of each effect without a true one."""
    return np.array([math.erfc(abs(e.mean) / e.sd / math.sqrt(2)) if e.sd else float(e.mean == 0) for e in effects])


def _interval(effect: Estimate) -> tuple[float, float]:
    return (effect.mean - _REACH * effect.sd, effect.mean + _REACH * effect.sd)


def _even(swaps: Sequence[SwapKey]) -> dict[SwapKey, float]:
    return {swap: 1 / len(swaps) for swap in swaps}


def _name(swap: SwapKey) -> str:
    return f"{swap[0]}={swap[1]}"
