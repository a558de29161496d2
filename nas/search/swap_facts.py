"""Gather the output scores and costs of single swaps before anything is trained, and store them in the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.bank.artifacts import ArtifactObserver, ArtifactStore
from nas.bank.jobs import OutputScore
from nas.bank.output_score import score_bank
from nas.bank.store import SwapBank
from nas.errors import BuildError, SpaceError
from nas.samplers import find_sampler
from nas.solver.facts import STORED, SwapFacts, all_swaps, facts_of_study
from nas.solver.prediction import Prediction
from nas.solver.solutions import Count, Solver
from nas.space.search_space import Assignment, SearchSpace
from nas.study.settings import Settings
from nas.study.study import Study


def are_needed(settings: Settings) -> bool:
    """Return whether a search needs them: its sampler takes scores in place of trained single swaps."""
    return find_sampler(settings.sampler, budgeted=bool(settings.budgets)).takes_scores


def counted_swaps(space: SearchSpace, count: Count, observer: ArtifactObserver) -> SwapFacts:
    """Return the costs of the swaps of a space, each alone; one that cannot be built has its failure.

    Raises:
        BuildError: The baseline cannot be built.
    """
    baseline, costs, failures = space.baseline(), {}, {}
    swaps = [swap for swap in all_swaps(space) if not space.forbids(baseline | dict([swap]))]
    observer.note(f"counting the costs of {len(swaps)} swaps, each alone")
    base = dict(count(baseline))
    for swap in swaps:
        try:
            counted = count(baseline | dict([swap]))
            costs[swap] = {q: value - base[q] for q, value in counted.items() if q in base}
        except BuildError as error:
            failures[swap] = str(error)
    return SwapFacts(base, costs, failures=failures)


def with_scores(
    facts: SwapFacts, space: SearchSpace, scores: Mapping[tuple[str, str], OutputScore], observer: ArtifactObserver
) -> SwapFacts:
    """Return facts with output scores, those of tied layers summed; a swap without a score is kept out.

    Args:
        facts: With the costs.
        space: The space.
        scores: Output scores by layer and label.
        observer: Is notified of what is kept out.
    """
    layers = {slot.key: slot.layers for slot in space.active}
    parts, failures = {}, dict(facts.failures)
    for key, label in facts.costs:
        own = [scores[layer, label] for layer in layers[key] if (layer, label) in scores]
        problem = next((score.failure for score in own if score.failure), "")
        if problem:
            failures[key, label] = problem
            observer.note(f"kept out of the solutions: {key}={label}: {problem}")
        elif own:
            parts[key, label] = tuple(map(sum, zip(*(score.parts for score in own), strict=True)))
    return replace(facts, parts=parts, failures=failures)


def gather(
    study: Study,
    space: SearchSpace,
    weights: ArtifactStore,
    bank: SwapBank | None,
    counted: SwapFacts | None,
    count: Count,
) -> SwapFacts:
    """Return the facts about all swaps of a space, those that the study holds or new ones, which it holds then.

    Args:
        study: The study.
        space: Its space, without swaps that could not be distilled.
        weights: What its proxies inherit.
        bank: The bank of its first seed; without one there are no scores, and nothing is stored.
        counted: The costs, where they have been counted before.
        count: Counts the costs of a variant.

    Raises:
        ArtifactError: The scores cannot be computed.
    """
    known = facts_of_study(study)
    if known.parts and set(all_swaps(space)) <= known.costs.keys() | known.failures.keys() | _forbidden(space):
        return known
    scores = score_bank(weights, study.settings.recipe, study.settings.seed, bank) if bank else {}
    facts = with_scores(counted or counted_swaps(space, count, weights.observer), space, scores, weights.observer)
    if bank:
        study.store_bank(bank, **{STORED: facts.to_plain()})
    return facts


def _forbidden(space: SearchSpace) -> set[tuple[str, str]]:
    return {swap for swap in all_swaps(space) if space.forbids(space.baseline() | dict([swap]))}


def check_table(settings: Settings, rows: Sequence[Assignment], count: Count) -> None:
    """Check that a table has a variant for each budget of its search.

    Raises:
        OptionError: A budget is in a unit that the table has not.
        SpaceError: It has none for a budget.
    """
    base = count(settings.space.baseline())
    for budget in settings.budgets:
        limits = budget.within(base)
        counted = []
        for row in rows:
            costs = count(row)
            counted.append(max(costs.get(q, math.inf) / limit for q, limit in limits.items()))
        if min(counted) > 1:
            raise SpaceError(
                f"no variant of the table meets the budget {budget}: the nearest is {100 * (min(counted) - 1):.1f} % "
                "above it"
            )


def check_budgets(settings: Settings, facts: SwapFacts, count: Count) -> list[str]:
    """Check the budgets of a search before anything is trained; return notes about those that limit nothing.

    Args:
        settings: Of the study.
        facts: The costs of the swaps.
        count: Counts the costs of a variant.

    Raises:
        OptionError: A budget is in a unit that is not measured.
        SpaceError: Nothing meets a budget.
    """
    space, any_swap = settings.space, replace(facts, parts=dict.fromkeys(facts.costs, (0.0,)))
    solver = Solver(space, any_swap, Prediction(space, any_swap, []), count=count)
    return [note for budget in settings.budgets if (note := solver.check(budget))]
