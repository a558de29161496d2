"""The best combination of swaps under limits, exactly: a mixed-integer linear program.

One choice a slot; the predicted quality is a sum over swaps, and over pairs of swaps that interact; costs are sums; the
rules of `forbid` and the distance to other solutions are linear constraints. It is solved by HiGHS (Huangfu and Hall,
"Parallelizing the dual revised simplex method", 2018), through `scipy.optimize.milp`. A choice of modules as an integer
program: Molchanov et al., "LANA: Latency Aware Network Acceleration" (arXiv:2107.10624).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from nas.errors import SolverTimeout
from nas.solver.facts import Swap
from nas.space.search_space import Assignment, SearchSpace, matches

_MOST_SECONDS = 20.0
"""Time after which the best solution so far is taken."""
_TIME_LIMIT = 1
"""Status of `scipy.optimize.milp` where a limit of time or iterations was reached."""


@dataclass(frozen=True)
class Program:
    """A program over the active slots of a space.

    Attributes:
        space: The space, with the rules of its `forbid`.
        values: What each swap adds to the quality, which is maximised; one that is missing adds nothing.
        pairs: What two swaps add together, beyond the sum of both.
        costs: By quantity and swap, what the swap adds to the cost.
        limits: By quantity, the most that all swaps together may add.
        barred: Swaps that may not be chosen.
    """

    space: SearchSpace
    values: Mapping[Swap, float] = field(default_factory=dict)
    pairs: Mapping[tuple[Swap, Swap], float] = field(default_factory=dict)
    costs: Mapping[str, Mapping[Swap, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    barred: frozenset[Swap] = frozenset()


class _Rows:
    """Linear constraints, row by row."""

    def __init__(self) -> None:
        self._at: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, row: Mapping[int, float], low: float, high: float) -> None:
        """Add a constraint on a weighted sum of variables."""
        self._at += [(len(self._low), column, weight) for column, weight in row.items()]
        self._low.append(low)
        self._high.append(high)

    def constraint(self, columns: int) -> LinearConstraint:
        """Return all of them."""
        rows, at, weights = zip(*self._at, strict=True)
        matrix = coo_array((weights, (rows, at)), shape=(len(self._low), columns))
        return LinearConstraint(matrix.tocsc(), self._low, self._high)


def solve(program: Program, apart: Sequence[tuple[Assignment, int]] = ()) -> dict[str, str] | None:
    """Return the best assignment, or None where there is none.

    Args:
        program: The program.
        apart: Assignments, and the least number of slots in which the solution differs from each.

    Raises:
        SolverTimeout: Time ran out before any was found.
    """
    slots = program.space.active
    if not slots:
        return None
    columns = {(s.key, label): i for i, (s, label) in enumerate((s, label) for s in slots for label in s.choices)}
    rows = _Rows()
    for slot in slots:
        rows.add({columns[slot.key, label]: 1.0 for label in slot.choices}, 1, 1)
    for quantity, limit in program.limits.items():
        rows.add(_by_column(program.costs[quantity], columns), -np.inf, limit)
    for other, least in apart:
        same = {columns[pair]: 1.0 for pair in other.items() if pair in columns}
        rows.add(same, -np.inf, len(slots) - least)
    objective = _by_column(program.values, columns)
    size = len(columns)
    for (a, b), value in program.pairs.items():
        if value:
            objective[size] = value
            both = {columns[a]: 1.0, columns[b]: 1.0, size: -1.0}
            if value < 0:
                rows.add(both, -np.inf, 1)
            else:
                rows.add({columns[a]: 1.0, size: -1.0}, 0, np.inf)
                rows.add({columns[b]: 1.0, size: -1.0}, 0, np.inf)
            size += 1
    size = _forbid(program.space, columns, rows, size)
    high = np.ones(size)
    high[[columns[swap] for swap in program.barred if swap in columns]] = 0.0
    gain = np.zeros(size)
    gain[list(objective)] = list(objective.values())
    scale = float(np.abs(gain).max()) or 1.0  # the tolerances of the solver are absolute
    with _silent():
        found = milp(
            -gain / scale,
            constraints=rows.constraint(size),
            bounds=Bounds(0, high),
            integrality=np.ones(size),
            options={"time_limit": _MOST_SECONDS, "mip_rel_gap": 0.0},
        )
    if found.x is None and found.status == _TIME_LIMIT:
        raise SolverTimeout(
            f"the solver ran out of time ({_MOST_SECONDS:g} s) before it found a variant; whether there is one is not "
            "known: try again when the machine is less busy, or search a space with fewer choices"
        )
    if found.x is None:
        return None
    chosen = {s.key: max(s.choices, key=lambda label: found.x[columns[s.key, label]]) for s in slots}
    return {slot.key: chosen[slot.key] for slot in slots}


def least_cost(program: Program, quantity: str) -> dict[str, str] | None:
    """Return the assignment of the lowest cost, disregarding quality and limits; None where rules allow none."""
    cheaper = {swap: -cost for swap, cost in program.costs[quantity].items()}
    return solve(Program(program.space, cheaper, barred=program.barred))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Send what is written to the process's stdout to nowhere: HiGHS 1.12 writes to it, whatever its options say."""
    try:
        sys.stdout.flush()
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):  # no stdout, or a closed one
        yield
        return
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).fflush(None)  # of the C library, which buffers where stdout is a pipe
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _by_column(weights: Mapping[Swap, float], columns: Mapping[Swap, int]) -> dict[int, float]:
    return {columns[swap]: weight for swap, weight in weights.items() if swap in columns and weight}


def _forbid(space: SearchSpace, columns: Mapping[Swap, int], rows: _Rows, size: int) -> int:
    """Add the rules of `forbid`, as `SearchSpace.forbids` reads them; return the number of variables."""
    for rule in space.forbid:
        parts = [
            [pair for pair in columns if matches(pair[0], slot) and matches(pair[1], choice)] for slot, choice in rule
        ]
        if not all(parts):
            continue
        row: dict[int, float] = {}
        for part in parts:
            if len({slot for slot, _ in part}) == 1:  # at most one of them is chosen
                for pair in part:
                    row[columns[pair]] = row.get(columns[pair], 0.0) + 1.0
            else:
                for pair in part:
                    rows.add({columns[pair]: 1.0, size: -1.0}, -np.inf, 0)
                row[size] = 1.0
                size += 1
        rows.add(row, -np.inf, len(parts) - 1)
    return size
