"""The private parts of Optuna that studies need, in one place.

Publicly Optuna neither creates a trial that is running from its first moment, in one transaction, nor opens, reads or
marks a trial by its ID, as one worker has to do with the trials of another. Checked with the releases `CHECKED`;
`tests/nas/study/test_optuna_private.py` says which of these parts a new release has changed.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial

CHECKED = ("5.0.0",)
"""Releases of Optuna that these functions were checked with."""


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the storage's ID of a trial; its number counts within one study only."""
    return trial._trial_id


def add_trial(study: optuna.Study, template: FrozenTrial) -> int:
    """Add a trial with the state, parameters and attributes of a template in one transaction, and return its ID."""
    return study._storage.create_new_trial(study._study_id, template_trial=template)


def open_trial(study: optuna.Study, trial: int) -> optuna.Trial:
    """Return the handle of a running trial by its ID."""
    return optuna.Trial(study, trial)


def read_trial(study: optuna.Study, trial: int) -> FrozenTrial:
    """Return what is stored of a trial by its ID."""
    return study._storage.get_trial(trial)


def set_trial_attribute(study: optuna.Study, trial: int, key: str, value: Any) -> None:
    """Store a user attribute of a trial by its ID."""
    study._storage.set_trial_user_attr(trial, key, value)
