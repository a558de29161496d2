"""Make the weights that runs inherit before the search begins, on all of its training processes at once.

A baseline is one training, which gains little from more threads. So the baselines of the seeds that the search needs
are trained in parallel, and the first seed's bank is distilled in parts, one for each process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from nas.errors import ArtifactError, OutOfMemory, SeedExcluded
from nas.ranking.race import rules_of
from nas.search.runner import Runner
from nas.study.settings import PER_SEED
from nas.workers.count import available_cores
from nas.workers.parallel import run_parallel


def prepare(runners: Sequence[Runner]) -> None:
    """Make the weights that the runs of a search inherit: trained baselines, and the bank of the first seed.

    Raises:
        ArtifactError: Those of the first seed cannot be made.
    """
    first = runners[0]
    if first.settings.recipe.init in ("baseline", "bank") and not first.replay and len(runners) > 1:
        seeds = {id(runner): seed for runner, seed in zip(runners, _seeds(first), strict=False)}
        makers = [runner for runner in runners if id(runner) in seeds]

        def make(runner: Runner, _: threading.Event) -> None:
            if runner is first:
                runner.inheritance.make_first_baseline()
            else:
                with contextlib.suppress(ArtifactError, SeedExcluded):  # reported when a run needs it
                    runner.inheritance.make_baseline(seeds[id(runner)])

        with _sharing_cores(makers):
            run_parallel(makers, make)
        _distil_in_parts(first, runners[1:])
    for runner in runners:
        runner.prepare()


def _seeds(runner: Runner) -> list[int]:
    """Return the seeds whose baselines the search needs, the study's own first."""
    rules = rules_of(runner.study)
    if runner.settings.baselines != PER_SEED:
        return [rules.first]
    return list(rules.seeds(max(rules.screened, rules.confirm.seeds if rules.confirm.top else 1)))


def _distil_in_parts(first: Runner, others: Sequence[Runner]) -> None:
    """Make the first seed's bank with the processes of several runners: all on a CPU, one for each GPU."""
    devices = {first.device: first}
    for runner in others:
        devices.setdefault(runner.device, runner)
    makers = [first, *others] if first.device == "cpu" else list(devices.values())
    first.weights.helpers = tuple((runner.worker, runner.device) for runner in makers[1:])
    try:
        with _sharing_cores(makers):
            first.prepare()
    except OutOfMemory:
        first.observer.note("the bank: out of memory in several processes; it is distilled again in one")
    finally:
        first.weights.helpers = ()


@contextlib.contextmanager
def _sharing_cores(runners: Sequence[Runner]) -> Iterator[None]:
    """Let the training processes of these runners share all cores, because the others are idle."""
    before = [runner.worker.threads for runner in runners]
    for runner in runners:
        runner.worker.threads = max(1, available_cores() // len(runners))
    try:
        yield
    finally:
        for runner, threads in zip(runners, before, strict=True):
            runner.worker.threads = threads
