"""What to try next: the baseline, every swap alone, then combinations.

Combinations are ordered by what their parts promise: the scores of single swaps predict them (`nas.predict`), and the
best one that has not been tried is next. A share of the proposals comes from a sampler instead, which does not believe
in parts. What is proposed depends only on the study's seed and on what is finished.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import optuna

from nas.candidates import candidates
from nas.predict import Additive, AdditiveCost, Observation, key_of
from nas.rank import baseline_of, search_score
from nas.space import SearchSpace
from nas.trial import Trial

Key = tuple[tuple[str, str], ...]

_MOST_SEEN = 300
"""Combinations, the latest ones, that a prediction learns from: beyond, it would take longer than a validation."""
EXPLORATION = 4
"""Of so many combinations one comes from the sampler."""


def propose(
    space: SearchSpace, trials: Sequence[Trial], *, seed: int, floor: float, error: float | None = None
) -> dict[str, str] | None:
    """Return what to try next, or None when every allowed variant has been tried.

    Args:
        space: What may be tried.
        trials: What has been.
        seed: Of the study; with the trials so far it decides the answer.
        floor: As in `nas.rank.rank`.
        error: Standard deviation of one score, where a calibration says.
    """
    known = {key_of(t.assignment) for t in trials if t.spent or t.status in ("rejected", "running")}
    singles = [space.baseline(), *space.single_swaps()]
    for assignment in singles:
        if key_of(assignment) not in known:
            return assignment
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{len(known)}".encode()).digest()[:4], "big")
    if (len(known) - len(singles)) % EXPLORATION != EXPLORATION - 1:
        promised = promising(space, trials, known, floor=floor, error=error, seed=drawn)
        if promised is not None:
            return promised
    shadow = _shadow_study(space, trials, floor, drawn)
    kinds: dict[str, optuna.distributions.BaseDistribution] = dict(_kinds(space))
    for _ in range(30):
        asked = shadow.ask(fixed_distributions=kinds)
        assignment = {slot.key: str(asked.params[slot.key]) for slot in space.active}
        if key_of(assignment) not in known and not space.forbids(assignment):
            return assignment
        shadow.tell(asked, state=optuna.trial.TrialState.FAIL)
    return _any_new(space, known, random.Random(drawn))


def promising(
    space: SearchSpace, trials: Sequence[Trial], known: set[Key], *, floor: float, error: float | None, seed: int
) -> dict[str, str] | None:
    """Return the untried variant whose parts promise the best place in the ranking; None if nothing can be said."""
    done = [t for t in trials if t.status == "done"]
    base = baseline_of(done)
    if base is None or len(done) < 2:
        return None
    singles = 1 + sum(len(slot.choices) - 1 for slot in space.active)
    seen = [*done[:singles], *done[singles:][-_MOST_SEEN:]]
    model = Additive.fit(observations(seen), space.active, error)
    cost = AdditiveCost.fit([(t.assignment, t.gflops) for t in seen], space.active)

    def score(mean: float, gflops: float) -> float:
        return mean - base.map if mean < base.map - floor else mean / max(gflops, 1e-9)

    found = candidates(model, space.active, cost.predict, score, known, space.forbids, seed=seed)
    return found[0] if found else None


def observations(trials: Sequence[Trial]) -> list[Observation]:
    """Return what finished trials say to a prediction."""
    return [Observation(t.assignment, t.map) for t in trials if t.status == "done"]


def _kinds(space: SearchSpace) -> dict[str, optuna.distributions.CategoricalDistribution]:
    return {slot.key: optuna.distributions.CategoricalDistribution(slot.choices) for slot in space.active}


def _shadow_study(space: SearchSpace, trials: Sequence[Trial], floor: float, seed: int) -> optuna.Study:
    """Return a study in memory that knows the finished trials by the ranking's score, to ask a sampler.

    The stored study is not asked itself: it would record every proposal that turns out to be a duplicate.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=1, seed=seed)
    shadow = optuna.create_study(direction="maximize", sampler=sampler)
    base = baseline_of(trials)
    for t in trials:
        if t.status == "done":
            score = search_score(t, base, floor)
            shadow.add_trial(
                optuna.trial.create_trial(params=dict(t.assignment), distributions=dict(_kinds(space)), value=score)
            )
    return shadow


def _any_new(space: SearchSpace, known: set[Key], rng: random.Random) -> dict[str, str] | None:
    """Return an allowed assignment that has not been tried, uniformly; None if there is none."""
    if space.size <= 20_000:
        fresh = [a for a in space.assignments() if key_of(a) not in known]
        return rng.choice(fresh) if fresh else None
    for _ in range(10_000):
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.active}
        if key_of(assignment) not in known and not space.forbids(assignment):
            return assignment
    return None
