"""A table of some hundred measured variants, with the output scores of all swaps, to replay searches with budgets.

    python benchmarks/budget_table.py light --data bccd/data.yaml --study bccd-table -o bccd-table.json
    python benchmarks/budget_replay.py bccd-table.json > benchmarks/results/budget_replay.md
    python benchmarks/additivity.py bccd-table

Trains the baseline, distils the bank, scores every swap by the network's outputs, and validates variants as they are
assembled from the bank, without training (rung 0, about 3 CPU seconds each): the baseline, every single swap, and
combinations of 2 to 10 swaps, whose number of swaps is uniform. Their swaps are drawn uniformly from the two thirds of
each slot that move the outputs least, as most others break the network. Everything is in a study: start the same
command again after an interruption.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

MOST_SWAPS = 10
SHARE = 2 / 3
"""Share of the choices of a slot that combinations are drawn from."""


def drawn(space: Any, facts: Any, seed: int = 0) -> Any:
    """Yield the baseline, every single swap, and combinations without end."""
    from nas.solver.facts import all_swaps

    yield space.baseline()
    yield from space.single_swaps()
    rng, usable = random.Random(seed), {}
    for slot in space.active:
        scored = [s for s in all_swaps(space) if s[0] == slot.key and s in facts.parts]
        scored.sort(key=lambda swap: sum(facts.parts[swap]))
        if kept := scored[: max(1, round(SHARE * len(scored)))]:
            usable[slot.key] = [label for _, label in kept]
    while True:
        count = rng.randint(2, min(MOST_SWAPS, len(usable)))
        keys = rng.sample(sorted(usable), count)
        yield space.baseline() | {key: rng.choice(usable[key]) for key in keys}


def ask(history: Any) -> dict[str, str] | None:
    """Return the next variant of the table: the sampler of this program."""
    some = itertools.islice(drawn(history.space, history.facts), 100_000)
    return next((dict(assignment) for assignment in some if history.is_new(assignment)), None)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space")
    parser.add_argument("--data")
    parser.add_argument("--study", required=True)
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--weights")
    parser.add_argument("--base-epochs", type=int)
    parser.add_argument("--bank-epochs", type=int)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    from nas.cli.options import prepare

    cache = prepare()
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.samplers import SAMPLERS, Sampler
    from nas.search.table import export_table, write_table
    from nas.session.options import SearchOptions
    from nas.session.search import Session
    from nas.study.budget import Confirm
    from nas.study.location import locate
    from nas.study.study import Study
    from nas.workers.process import trainers_of

    # The table's variants take the place of a registered sampler: the mapping is typed as constant for all others.
    SAMPLERS["brute"] = Sampler(f"{__name__}:ask", "variants of the table", singles_first=False, takes_scores=True)  # type: ignore[index]
    there = Study.is_created(locate(args.study, None))
    options = SearchOptions(
        space=args.space, data=args.data, study=args.study, trials=None if there else args.variants, epochs=0,
        confirm=Confirm(), sampler="brute", baseline_per_seed=False, weights=args.weights,
        base_epochs=args.base_epochs, bank_epochs=args.bank_epochs,
    )  # fmt: skip
    session = Session.open(cache, options)
    with (
        trainers_of(cache, 1) as trainers,
        session.study.locked(),
        Progress(make_console(stderr=True), session.study) as progress,
    ):
        session.run(progress, trainers)
    print(f"{write_table(export_table(session.study), args.out)} rows in {args.out}")


if __name__ == "__main__":
    main()
