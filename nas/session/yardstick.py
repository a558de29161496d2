"""The yardsticks of a search: the widths that are requested for its budgets, or for the variants on its front."""

from __future__ import annotations

from collections.abc import Sequence

from nas.errors import SpaceError
from nas.ranking.rank import RankRow
from nas.space.variant import Variant
from nas.study.objective import Budget, read_budgets
from nas.study.study import Study
from nas.yardstick.width import check_prunable, cost_of, widest_within

FRONT = "front"
"""In place of budgets: the GFLOPs of each variant on the front."""


def read_yardsticks(text: str) -> tuple[tuple[Budget, ...], bool]:
    """Return the budgets of ``--yardstick``, such as ``6.5,-25%,front``, and whether ``front`` is among them.

    Raises:
        OptionError: One cannot be read.
    """
    parts = [part.strip() for part in text.split(",")]
    budgets = [part for part in parts if part != FRONT]
    return read_budgets(",".join(budgets), None, None) if budgets else (), FRONT in parts


def request_yardsticks(study: Study, budgets: Sequence[Budget]) -> list[str]:
    """Request the yardsticks of budgets of GFLOPs in a study, and return a note on each new one.

    Raises:
        SpaceError: The study's base cannot be pruned, or has no yardstick of a budget.
    """
    if not budgets:
        return []
    space = study.settings.space
    check_prunable(space.base, space.scale)
    baseline = cost_of(Variant(space.base, space.scale)).gflops
    wanted = [limit for budget in budgets if (limit := _gflops(budget, baseline))]
    return _request(study, wanted, baseline)


def request_of_budgets(study: Study) -> list[str]:
    """Request the yardsticks of the budgets that a search has anyway; return a note on each, also on what has none."""
    lines = []
    for budget in study.settings.budgets:
        try:
            lines += request_yardsticks(study, [budget])
        except SpaceError as error:
            lines.append(f"no yardstick for the budget {budget}: {error}")
    return lines


def request_at_front(study: Study, rows: Sequence[RankRow]) -> list[str]:
    """Request a yardstick at the GFLOPs of each variant on the front of a ranking, and return a note on each new one.

    Variants below the floor get none. Those that cost as much as the baseline, or more, have the baseline itself.
    """
    baseline = next((r.trial.gflops for r in rows if r.trial.variant.is_baseline), 0.0)
    chosen = [r.trial.gflops for r in rows if r.on_front and not r.below_floor and r.trial.gflops < baseline]
    return _request(study, sorted(set(chosen)), baseline)


def _gflops(budget: Budget, baseline: float) -> float | None:
    """Return the GFLOPs that a budget allows; None if it does not limit them."""
    of_gflops = tuple(limit for limit in budget.limits if limit[0] == "gflops")
    return Budget(of_gflops).within({"gflops": baseline}).get("gflops")


def _request(study: Study, budgets: Sequence[float], baseline: float) -> list[str]:
    space, before = study.settings.space, study.yardsticks
    found = {budget: widest_within(space.base, space.scale, budget) for budget in budgets}
    widths = {y: y.width for y in found.values() if y.width is not None and y.width not in before}
    if widths:
        study.add_yardsticks(widths.values())
    return [
        f"yardstick for {budget:.2f} GFLOPs: the baseline pruned to width {y.width:g}, {cost_of(y).gflops:.2f} GFLOPs "
        f"({100 * (cost_of(y).gflops / baseline - 1):+.1f} %)"
        for budget, y in found.items()
        if y in widths
    ]
