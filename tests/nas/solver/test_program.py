"""The exact solver against enumeration: limits, rules, interactions, and solutions that are apart."""

from __future__ import annotations

import os
import random
import sys
from types import SimpleNamespace

import pytest
import scipy.optimize

import nas.solver.program
from nas.errors import BuildError, OptionError, SolverTimeout, SpaceError
from nas.solver.facts import SwapFacts, all_swaps
from nas.solver.prediction import Prediction
from nas.solver.program import Program, _silent, solve
from nas.solver.solutions import Solver, swaps_apart
from nas.space.search_space import SearchSpace, Slot
from nas.study.objective import Budget, read_budgets


def space_of(slots: int, choices: int, forbid=(), limits=()) -> SearchSpace:
    made = tuple(Slot(f"s{i}", (f"s{i}",), ("keep", *(f"c{j}" for j in range(1, choices)))) for i in range(slots))
    return SearchSpace("made", "yolov8", "n", made, forbid=forbid, limits=limits)


def drawn(space: SearchSpace, seed: int) -> tuple[dict, dict]:
    rng = random.Random(seed)
    return (
        {swap: -rng.random() for swap in all_swaps(space)},
        {swap: -rng.random() for swap in all_swaps(space)},
    )


def value_of(program: Program, assignment: dict) -> float:
    chosen = set(assignment.items())
    pairs = sum(v for pair, v in program.pairs.items() if chosen >= set(pair))
    return sum(program.values.get(swap, 0.0) for swap in chosen) + pairs


def best_by_enumeration(program: Program) -> float:
    allowed = []
    for assignment in program.space.assignments():
        cost = {q: sum(costs.get(s, 0.0) for s in assignment.items()) for q, costs in program.costs.items()}
        if all(cost[q] <= limit for q, limit in program.limits.items()) and not program.barred & set(
            assignment.items()
        ):
            allowed.append(value_of(program, assignment))
    return max(allowed)


@pytest.mark.parametrize("seed", range(6))
def test_solution_is_the_best_of_all(seed: int) -> None:
    rules = (
        (("s0", "c1"), ("s1", "c*")),
        (("s[23]", "c2"), ("s4", "keep")),
    )
    space = space_of(5, 4, forbid=rules)
    values, costs = drawn(space, seed)
    rng, swaps = random.Random(seed), all_swaps(space)
    pairs = {(a, b): rng.uniform(-1, 1) for a, b in (rng.sample(swaps, 2) for _ in range(8)) if a[0] != b[0]}
    barred = frozenset(rng.sample(swaps, 2))
    program = Program(space, values, pairs, {"gflops": costs}, {"gflops": -1.5}, barred)
    found = solve(program)
    assert found is not None
    assert not space.forbids(found)
    assert value_of(program, found) == pytest.approx(best_by_enumeration(program), abs=1e-6)


def test_nothing_meets_an_impossible_limit() -> None:
    space = space_of(3, 3)
    _, costs = drawn(space, 0)
    assert solve(Program(space, {}, {}, {"gflops": costs}, {"gflops": -10.0})) is None


def test_solutions_differ_in_a_fifth_of_the_slots() -> None:
    space = space_of(11, 3)
    least = swaps_apart(space)
    assert least == 3
    [budget] = read_budgets("-20%", None, None)
    found = [solution.assignment for solution in solver_of(space).solve(budget, 5, least)]
    assert len(found) == 5
    for i, one in enumerate(found):
        for other in found[:i]:
            assert sum(one[key] != other[key] for key in one) >= least


def test_fifteen_slots_of_46_choices_are_solved() -> None:
    space = space_of(15, 46)
    values, costs = drawn(space, 2)
    program = Program(space, values, {}, {"gflops": costs}, {"gflops": -4.0})
    found = solve(program)
    assert found is not None
    assert sum(costs.get(swap, 0.0) for swap in found.items()) <= -4.0 + 1e-6


BASE = 10.0


def solver_of(space: SearchSpace, seed: int = 0, count=None, trained=(), **facts) -> Solver:
    rng = random.Random(seed)
    swaps = all_swaps(space)
    known = {
        "base": {"gflops": BASE, "params": 3e6},
        "costs": {s: {"gflops": -rng.random(), "params": -1e5 * rng.random()} for s in swaps},
        "parts": {s: (rng.random(), rng.random()) for s in swaps},
    }
    made = SwapFacts(**{**known, **facts})
    return Solver(space, made, Prediction(space, made, list(trained)), count=count)


def test_a_solution_really_meets_its_budget_where_costs_do_not_add_up() -> None:
    space = space_of(6, 4)
    plain = solver_of(space)
    counted = []

    def count(assignment):
        counted.append(assignment)
        swaps = sum(label != "keep" for label in assignment.values())
        return {"gflops": plain.facts.cost(assignment, "gflops") + 0.15 * swaps}

    budget = read_budgets("-20%", None, None)[0]
    solver = solver_of(space, count=count)
    [found] = solver.solve(budget)
    assert found.costs["gflops"] <= 0.8 * BASE
    assert found.costs["gflops"] == pytest.approx(count(found.assignment)["gflops"])
    assert plain.solve(budget)[0].costs["gflops"] < found.costs["gflops"] + 2  # a sum, not counted
    assert len(counted) < 10


def test_sums_that_are_too_high_leave_no_room_unused() -> None:
    space = space_of(6, 4)
    plain = solver_of(space)

    def count(assignment):
        swaps = sum(label != "keep" for label in assignment.values())
        return {"gflops": plain.facts.cost(assignment, "gflops") - 0.3 * swaps}

    budget = read_budgets("-20%", None, None)[0]
    [wide], [narrow] = solver_of(space, count=count).solve(budget), plain.solve(budget)
    assert wide.predicted.mean > narrow.predicted.mean
    assert wide.costs["gflops"] <= 0.8 * BASE


def test_variants_that_cannot_be_built_are_passed_over() -> None:
    space = space_of(4, 3)
    refused = solver_of(space).solve(read_budgets("-10%", None, None)[0])[0].assignment

    def count(assignment):
        if assignment == refused:
            raise BuildError("cannot be built")
        return {}

    [found] = solver_of(space, count=count).solve(read_budgets("-10%", None, None)[0])
    assert found.assignment != refused


def test_budgets_that_nothing_and_that_everything_meets() -> None:
    solver = solver_of(space_of(4, 3))
    with pytest.raises(SpaceError, match=r"no variant meets the budget -90% GFLOPs: the least is \d\.\d\d GFLOPs"):
        solver.check(read_budgets("-90%", None, None)[0])
    assert "limits nothing: the baseline has 10.00 GFLOPs" in solver.check(read_budgets("11", None, None)[0])
    with pytest.raises(SpaceError) as none_alone:
        solver.check(read_budgets("-90%", "-1%", None)[0])
    assert "each can be met alone" not in str(none_alone.value)
    assert solver.check(read_budgets("-5%", None, None)[0]) == ""


def test_budgets_that_are_met_alone_but_not_together() -> None:
    space = space_of(2, 2)
    one, other = all_swaps(space)
    costs = {one: {"gflops": -2.0, "params": 1e6}, other: {"gflops": 2.0, "params": -1e6}}
    with pytest.raises(SpaceError, match="each can be met alone, but not together"):
        solver_of(space, costs=costs).check(read_budgets("-20%", "-20%", None)[0])


def test_a_budget_in_a_unit_that_was_not_measured() -> None:
    with pytest.raises(OptionError, match=r"has not measured \(ms\): search with --latency"):
        solver_of(space_of(4, 3)).check(read_budgets(None, None, "12")[0])


def test_swaps_that_failed_or_of_which_nothing_is_known_are_not_proposed() -> None:
    space = space_of(3, 3)
    swaps = all_swaps(space)
    parts = dict.fromkeys(swaps[1:], (0.1,))
    solver = solver_of(space, parts=parts, failures={swaps[1]: "raises"})
    assert solver.barred == {swaps[0], swaps[1]}
    found = solver.solve(read_budgets("-1%", None, None)[0])
    assert not solver.barred & set(found[0].assignment.items())


def test_swaps_that_bring_nothing_are_left_out() -> None:
    space = space_of(5, 3)
    swaps = all_swaps(space)
    costs = {s: {"gflops": -1.0 if s[0] == "s0" else 0.0} for s in swaps}
    solver = solver_of(space, costs=costs, parts=dict.fromkeys(swaps, (0.0, 0.0)))
    [found] = solver.solve(read_budgets("-10%", None, None)[0])
    assert [key for key, label in found.assignment.items() if label != "keep"] == ["s0"]


def test_limits_of_the_space_hold_for_solutions() -> None:
    space = space_of(4, 3, limits=(("max_params", 2.85e6), ("min_map", 0.1)))
    [found] = solver_of(space).solve(None)
    assert found.costs["params"] <= 2.85e6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("-25%,6.5", None, None), ["-25% GFLOPs", "6.5 GFLOPs"]),
        (("-25%,-10%", "2.5M", None), ["-25% GFLOPs, 2.5e+06 parameters", "-10% GFLOPs, 2.5e+06 parameters"]),
        ((None, None, "12,12"), ["12 ms"]),
        ((None, None, None), []),
    ],
)
def test_budgets_are_read(given, expected) -> None:
    assert [str(budget) for budget in read_budgets(*given)] == expected


@pytest.mark.parametrize("text", ["25%", "-6.5", "", "six", "-100%", "0", "nan", "1e400", "6,5,", "-25 %"])
def test_amounts_that_cannot_be_read(text: str) -> None:
    with pytest.raises(OptionError, match="budget"):
        read_budgets(text, None, None)


def test_units_with_different_numbers_of_amounts() -> None:
    with pytest.raises(OptionError, match="2 of GFLOPs, 3 of parameters"):
        read_budgets("6,5", "1M,2M,3M", None)


def test_limits_of_a_budget() -> None:
    budget = Budget((("gflops", -0.25, True), ("params", 2e6, False)))
    assert budget.within({"gflops": 8.0, "params": 3e6}) == {"gflops": 6.0, "params": 2e6}


def test_a_quantity_that_there_is_none_of() -> None:
    with pytest.raises(ValueError, match="a budget limits"):
        Budget((("watts", 1.0, False),))


def test_what_the_solver_writes_to_stdout_is_not_printed(capfd) -> None:
    """As HiGHS 1.12 does, which would break the JSON that a command prints."""
    sys.stdout.write("before\n")
    with _silent():
        os.write(1, b"noise")
    sys.stdout.write("after\n")
    assert capfd.readouterr().out == "before\nafter\n"


def test_a_solver_that_runs_out_of_time_says_so(monkeypatch) -> None:
    """And not that nothing meets the budget."""
    budget = read_budgets("-20%", None, None)[0]
    solver = solver_of(space_of(4, 3))
    monkeypatch.setattr(nas.solver.program, "milp", lambda *_, **__: SimpleNamespace(x=None, status=1))
    with pytest.raises(SolverTimeout, match=r"budget -20% GFLOPs: the solver ran out of time \(20 s\) before it found"):
        solver.check(budget)
    monkeypatch.setattr(nas.solver.program, "milp", lambda *_, **__: SimpleNamespace(x=None, status=2))
    assert solver.solve(budget) == [], "proven to be infeasible"


def test_what_was_found_before_time_ran_out_counts(monkeypatch) -> None:
    budget, calls = read_budgets("-20%", None, None)[0], []

    def milp(*given, **options):
        calls.append(1)
        return scipy.optimize.milp(*given, **options) if len(calls) == 1 else SimpleNamespace(x=None, status=1)

    monkeypatch.setattr(nas.solver.program, "milp", milp)
    assert len(solver_of(space_of(4, 3)).solve(budget, 3)) == 1
    assert len(calls) > 1
