"""Uninformed samplers, which ignore all scores: random search and brute force."""

from __future__ import annotations

import random

from nas.samplers.history import History
from nas.space.search_space import key_of


def ask_random(history: History) -> dict[str, str] | None:
    """Return a new variant, uniformly at random."""
    return history.any_new(random.Random(history.drawn))


def ask_in_order(history: History) -> dict[str, str] | None:
    """Return the first new variant in the order of the space."""
    return next((a for a in history.space.assignments() if key_of(a) not in history.known), None)
