"""What is known of each single swap before any training: its output score and its costs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from nas.errors import StudyError, escaped, one_line
from nas.files import from_plain
from nas.ranking.additive import fit_sums
from nas.space.search_space import Assignment, SearchSpace
from nas.study.objective import costs_of
from nas.study.trial import Trial

if TYPE_CHECKING:
    from nas.study.study import Study

STORED = "swaps"
"""Key of the facts among those that a study holds about its bank."""
Swap: TypeAlias = tuple[str, str]
"""A slot's key and the label of a choice that is not its first."""


@dataclass(frozen=True)
class SwapFacts:
    """The facts about the swaps of a space.

    Attributes:
        base: The baseline's cost by quantity (`nas.study.objective.QUANTITIES`).
        costs: By swap and quantity, the cost of the baseline with this swap alone, minus that of the baseline.
        parts: By swap, the parts of its output score (`nas.bank.jobs.OutputScore.parts`), those of tied layers summed.
        failures: By swap, why it cannot be used.
    """

    base: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[Swap, Mapping[str, float]] = field(default_factory=dict)
    parts: Mapping[Swap, tuple[float, ...]] = field(default_factory=dict)
    failures: Mapping[Swap, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of parts of a score; 0 without any score."""
        return max(map(len, self.parts.values()), default=0)

    def cost(self, assignment: Assignment, quantity: str) -> float | None:
        """Return the sum of the baseline's cost and of those of the swaps; None where one of them is not known."""
        found = self.base.get(quantity)
        for swap in swaps_of(assignment, self.costs):
            more = self.costs[swap].get(quantity)
            found = None if found is None or more is None else found + more
        return found

    def distance(self, assignment: Assignment) -> float | None:
        """Return the predicted output distance of a combination, the sum of its swaps'; None where one has no score."""
        known = [self.parts.get(swap) for swap in swaps_of(assignment, self.costs)]
        return None if None in known else sum(sum(parts or ()) for parts in known)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for storing."""
        rows = {swap for facts in (self.costs, self.parts, self.failures) for swap in facts}
        return {
            "base": dict(self.base),
            "swaps": [
                {
                    "slot": swap[0],
                    "label": swap[1],
                    "costs": dict(self.costs.get(swap, {})),
                    "parts": [float(f"{value:.6g}") for value in self.parts.get(swap, ())],
                    "failure": self.failures.get(swap, ""),
                }
                for swap in sorted(rows)
            ],
        }

    @classmethod
    def from_plain(cls, body: Any) -> SwapFacts:
        """Return the facts that `to_plain` wrote; none for None.

        Raises:
            ValueError, TypeError, LookupError: They are damaged.
        """
        if body is None:
            return cls()
        costs, parts, failures = {}, {}, {}
        for row in body["swaps"]:
            swap = escaped(row["slot"]), escaped(row["label"])
            costs[swap] = {**from_plain(Mapping[str, float], row["costs"])}
            if row["parts"]:
                parts[swap] = from_plain(tuple[float, ...], row["parts"])
            if row["failure"]:
                failures[swap] = escaped(row["failure"])
        return cls({**from_plain(Mapping[str, float], body["base"])}, costs, parts, failures)


def swaps_of(assignment: Assignment, known: Container[Swap]) -> list[Swap]:
    """Return the swaps of an assignment that are among `known`; the first choice of a slot is none."""
    return [pair for pair in assignment.items() if pair in known]


def all_swaps(space: SearchSpace) -> list[Swap]:
    """Return every swap of the active slots."""
    return [(slot.key, label) for slot in space.active for label in slot.choices[1:]]


def facts_of_study(study: Study) -> SwapFacts:
    """Return the facts that a study holds; none where they have not been gathered.

    Raises:
        StudyError: They are damaged.
    """
    try:
        return SwapFacts.from_plain(study.bank.get(STORED))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StudyError(f"{study.shown}: the facts about its swaps are damaged: {one_line(error)}") from None


def completed(facts: SwapFacts, space: SearchSpace, trials: Sequence[Trial]) -> SwapFacts:
    """Return the facts with costs by the trials for each quantity that has not been counted, such as latency.

    They are sums over swaps, fitted by least squares; a swap that no trial has stays without.
    """
    base = next((t for t in trials if t.status == "done" and t.variant.is_baseline), None)
    if base is None:
        return facts
    found, costs = dict(facts.base), {swap: dict(known) for swap, known in facts.costs.items()}
    kept = space.baseline()
    for quantity in costs_of(base).keys() - facts.base.keys():
        known = [(dict(t.assignment), costs_of(t)[quantity]) for t in trials if t.gflops and quantity in costs_of(t)]
        model = fit_sums(known, space.active)
        found[quantity] = costs_of(base)[quantity]
        for swap in {pair for a, _ in known for pair in a.items() if kept.get(pair[0]) not in (None, pair[1])}:
            costs.setdefault(swap, {})[quantity] = model.contrast({swap: 1.0}).mean
    return SwapFacts(found, costs, facts.parts, facts.failures)
