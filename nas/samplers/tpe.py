"""The tree-structured Parzen estimator of Optuna; no other file asks one of Optuna's samplers."""

from __future__ import annotations

import random

import optuna

from nas.samplers.encoding import encode
from nas.samplers.history import History

_TRIES = 3
"""Draws until one is new; the estimator often proposes a known variant, and each draw fits it again."""
_MAX_TRIALS = 200
"""The latest trials, which it is fitted to: with more, asking takes longer than a validation."""


class _Choices(optuna.distributions.CategoricalDistribution):
    """Choices that are shared by all trials: Optuna would copy them with each, which takes longer than the fit."""

    def __deepcopy__(self, _memo: object) -> _Choices:
        return self


def ask(history: History) -> dict[str, str] | None:
    """Return the draw of a multivariate estimator (Bergstra et al., NeurIPS 2011), or a new variant near its last draw.

    None if there is no new one near it.
    """
    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        slot.key: _Choices(slot.choices) for slot in history.space.active
    }
    shadow = _shadow_study(history, kinds)
    for _ in range(_TRIES):
        optuna_trial = shadow.ask(fixed_distributions=kinds)
        assignment = {slot.key: str(optuna_trial.params[slot.key]) for slot in history.space.active}
        if history.is_new(assignment):
            return assignment
        shadow.tell(optuna_trial, state=optuna.trial.TrialState.FAIL)
    (last,) = encode(history.space, [assignment])
    return history.new_near(last, random.Random(history.drawn))


def _shadow_study(history: History, kinds: dict[str, optuna.distributions.BaseDistribution]) -> optuna.Study:
    """Return a study in memory with the values of the finished trials.

    The stored study is not asked itself: it would record every proposal that turns out to be a duplicate.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=1, seed=history.drawn)
    up = optuna.study.StudyDirection.MAXIMIZE
    directions = [up] * (2 if history.goal.has_front else 1)
    shadow = optuna.create_study(directions=directions, sampler=sampler)
    latest = list(zip(history.done, history.values.tolist(), strict=True))[-_MAX_TRIALS:]
    shadow.add_trials(
        [optuna.trial.create_trial(params=dict(t.assignment), distributions=kinds, values=v) for t, v in latest]
    )
    return shadow
