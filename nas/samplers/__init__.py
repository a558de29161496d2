"""Samplers by name: how the next variant is chosen once the baseline is known.

A new sampler is a file with a function ``ask(history)``, a line in `SAMPLERS`, a row in docs/samplers.md and an entry
in CHANGELOG.md; the command line takes its choices from here, and the contract tests run over every entry. A sampler
is imported when it is first asked, so that ``nas search --help`` imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.samplers.history import History


@dataclass(frozen=True)
class Sampler:
    """A registered sampler.

    Attributes:
        target: ``module:function``. The function takes a `History` and returns the next assignment, an allowed one that
            is not known; None leaves the choice to chance.
        help: What it does, in one line.
        singles_first: Whether each single swap is tried before it is asked.
        takes_scores: Whether the output scores of the swaps, where the study has them, take the place of that.
    """

    target: str
    help: str
    singles_first: bool = True
    takes_scores: bool = False

    def ask(self, history: History) -> dict[str, str] | None:
        """Return what the sampler chooses next."""
        module, name = self.target.split(":")
        function: Callable[[History], dict[str, str] | None] = getattr(importlib.import_module(module), name)
        return function(history)


SAMPLERS: Mapping[str, Sampler] = {
    "gp": Sampler("nas.samplers.expected_improvement:ask", "expected improvement under a Gaussian process"),
    "exact": Sampler(
        "nas.samplers.exact:ask", "exact solutions under budgets, by the output scores of swaps", takes_scores=True
    ),
    "tpe": Sampler("nas.samplers.tpe:ask", "multivariate tree-structured Parzen estimator"),
    "random": Sampler("nas.samplers.uninformed:ask_random", "uniformly at random", singles_first=False),
    "brute": Sampler(
        "nas.samplers.uninformed:ask_in_order", "all variants in the order of the space", singles_first=False
    ),
}
"""All samplers. None proposes a known variant, so each covers the whole space if the number of trials allows."""

AUTO = "auto"
"""Selects the default sampler."""
DEFAULT = "gp"
"""The sampler that did best in replays (docs/samplers.md)."""
BUDGETED = "exact"
"""The sampler of a search with budgets: no other one proposes variants for a budget."""
_REMOVED = frozenset({"evolution", "nsga2"})
"""Samplers of earlier versions, which stored studies may name."""


def find_sampler(name: str, *, budgeted: bool = False) -> Sampler:
    """Return the sampler of a name, for ``auto`` and for a removed name the default one, with budgets or without."""
    return SAMPLERS[(BUDGETED if budgeted else DEFAULT) if current_name(name) == AUTO else name]


def current_name(name: str) -> str:
    """Return the sampler with which a stored study resumes: ``auto`` in place of one that was removed."""
    return AUTO if name in _REMOVED else name
