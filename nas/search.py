"""The search: ask, gate, train, tell; and start again where it stopped.

The first trial is the baseline, then each single swap once while the budget lasts, then a multivariate TPE proposes. A
variant is never trained twice. What is proposed depends only on the study's seed and on what is finished, so a search
that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import optuna

from nas.cost import Cost, costed
from nas.errors import BuildError, StudyError
from nas.proxy import EpochScore, ProxyFailure, ProxyJob, ProxyResult, Recipe
from nas.rank import baseline_of, search_score
from nas.render import ModelFiles, render
from nas.space import SearchSpace
from nas.study import OpenTrial, Study, current_versions
from nas.trial import Status, Trial
from nas.variant import Variant

_MOST_REJECTED = 200
"""Variants over the limits in a row after which no further ones are looked for."""
_MOST_DOUBTFUL = 3
"""Trainings in a row that may fail for reasons of the machine before the search stops."""


class Observer(Protocol):
    """Who is told what a search does, while it does it."""

    def baseline_training(self, recipe: Recipe) -> None:
        """Hear that the baseline that others inherit from starts to train."""

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """Hear that a proxy starts."""

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """Hear that an epoch of the running training is over."""

    def trial_ended(self, trial: Trial) -> None:
        """Hear that a trial is finished, has failed, or was over a limit."""

    def note(self, text: str) -> None:
        """Hear what a reader of the result should know."""


@dataclass(frozen=True)
class Plan:
    """How many trials a search will run.

    Attributes:
        spent: Trials that count so far.
        target: Trials that the study will have at the end.
        finishing: Whether this goes on with a request that was cut short.
    """

    spent: int
    target: int
    finishing: bool


def plan(study: Study, trials: int | None) -> Plan:
    """Settle what an earlier search left open, and return how far this one will go; the caller holds the lock.

    A request that was cut short is finished by giving it again, or by giving none; any other number is that many more.
    Without a number and with nothing left to do the target is what has been spent.
    """
    study.give_up_stale()
    spent = sum(t.spent for t in study.trials())
    open_request = spent < study.target
    if trials is None or (open_request and trials == study.request):
        return Plan(spent, max(spent, study.target), finishing=True)
    return Plan(spent, spent + trials, finishing=False)


class Trainer(Protocol):
    """Who trains: `nas.proxy.ProxyWorker`."""

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job; raises `nas.proxy.ProxyFailure`."""


def search(study: Study, todo: Plan, data: Path, worker: Trainer, observer: Observer) -> list[Trial]:
    """Run trials until the plan is fulfilled or the space is exhausted, and return all trials of the study.

    Args:
        study: Where they go; the caller holds its lock.
        todo: From `plan`.
        data: A data.yaml that the host can read as it is.
        worker: Trains the proxies.
        observer: Told of everything.

    Raises:
        StudyError: The baseline fails: nothing could be compared with it.
    """
    settings = study.settings
    shutil.rmtree(_scratch(study), ignore_errors=True)
    study.ask_for(todo.target, todo.target - todo.spent if not todo.finishing else study.request)
    runner = _Runner(study, data, worker, observer)
    init = runner.initial_weights()
    rejected = 0
    while rejected < _MOST_REJECTED:
        trials = study.trials()
        spent = sum(t.spent or t.status == "running" for t in trials)
        if spent >= todo.target:
            break
        assignment = propose(settings.space, trials, settings.seed, settings.floor)
        if assignment is None:
            observer.note(f"every variant of the space has been tried: the search ends after {spent} trials")
            break
        trial = runner.run(assignment, init, spent + 1, todo.target)
        rejected = rejected + 1 if trial.status == "rejected" else 0
        if trial.variant.is_baseline and trial.status != "done":
            raise StudyError(f"the baseline itself failed, so nothing can be compared with it: {trial.failure}")
    else:
        observer.note(f"{rejected} variants in a row were over the limits of the space: the search ends here")
    runner.settle_doubtful("failed")
    shutil.rmtree(_scratch(study), ignore_errors=True)
    return study.trials()


def _scratch(study: Study) -> Path:
    """Return the folder for files that trainings make and remove; what a killed one leaves goes at the next start."""
    return study.place.folder / "run"


class _Runner:
    """Runs single trials of one search."""

    def __init__(self, study: Study, data: Path, worker: Trainer, observer: Observer) -> None:
        self.study = study
        self.settings = study.settings
        self.data = data
        self.worker = worker
        self.observer = observer
        self.doubtful: list[OpenTrial] = []

    def initial_weights(self) -> str | None:
        """Return the file that every proxy inherits from, and train the baseline for it if the recipe says so."""
        recipe = self.settings.recipe
        if recipe.init == "scratch":
            return None
        if recipe.init != "baseline":
            return recipe.init
        space = self.settings.space
        key = "\n".join([self.settings.fingerprint, str(recipe.for_baseline().to_json()), space.base, space.scale])
        key = hashlib.sha256(f"{key}\n{self.settings.seed}\n{self.settings.versions}".encode()).hexdigest()[:12]
        file = self.study.place.folder / f"baseline-{key}.pt"
        if file.exists() and self.study.baseline_training:
            return str(file)
        self.observer.baseline_training(recipe.for_baseline())
        baseline = Variant(space.base, space.scale)
        job = self.job(baseline, render(baseline).yaml, recipe.for_baseline(), None)
        try:
            result = self.worker.run(
                replace(job, save=str(file)), lambda score: self.observer.epoch(score, recipe.base_epochs)
            )
        except ProxyFailure as failure:
            raise StudyError(f"the baseline could not be trained: {failure}") from None
        self.study.keep_baseline_training(result.curve)
        return str(file)

    def run(self, assignment: Mapping[str, str], init: str | None, position: int, target: int) -> Trial:
        """Try one assignment: build, cost, gate, train. Whatever the variant does wrong ends in its trial."""
        variant = self.settings.space.variant(assignment)
        trial = Trial(-1, variant, assignment, "running", seed=self.settings.seed, versions=current_versions())
        handle = self.study.start(trial)
        try:
            ended = self._try(handle, init, position, target)
        except KeyboardInterrupt:
            if handle.trial.status == "running":
                handle.end(status="interrupted", failure="its search was stopped")
            raise
        self.observer.trial_ended(ended)
        return ended

    def _try(self, handle: OpenTrial, init: str | None, position: int, target: int) -> Trial:
        """Build, cost, gate and train; return how it ended."""
        variant = handle.trial.variant
        started = time.monotonic()
        try:
            files, cost = costed(variant)
        except BuildError as error:
            seconds = round(time.monotonic() - started, 2)
            return handle.end(status="failed", failure=f"build: {error}", seconds=seconds)
        handle.trial = replace(handle.trial, **_cost_fields(files, cost))
        handle.store()
        over = over_limit(self.settings.space, cost)
        if over and not variant.is_baseline:  # what is compared with is always trained
            return handle.end(status="rejected", failure=over)
        self.observer.trial_started(handle.trial, position, target)
        recipe = self.settings.recipe

        def on_epoch(score: EpochScore) -> None:
            handle.report(score)
            self.observer.epoch(score, recipe.epochs)

        try:
            result = self.worker.run(self.job(variant, files.yaml, recipe, init), on_epoch)
        except ProxyFailure as failure:
            return self._failed(handle, failure, round(time.monotonic() - started, 2))
        self.settle_doubtful("failed")
        return handle.end(
            status="done", curve=result.curve, inherited=result.inherited, seconds=round(result.seconds, 2)
        )

    def _failed(self, handle: OpenTrial, failure: ProxyFailure, seconds: float) -> Trial:
        """Store a failure, unless it may be the machine's and not the variant's: that shows when the next one trains.

        Raises:
            StudyError: Several variants in a row failed so. None of them is held against its variant.
        """
        text = f"{failure.kind}: {failure}"
        if failure.kind not in ("error", "died") or handle.trial.variant.is_baseline:
            return handle.end(status="failed", failure=text, seconds=seconds)
        handle.trial = replace(handle.trial, failure=text, seconds=seconds)
        self.doubtful.append(handle)
        if len(self.doubtful) >= _MOST_DOUBTFUL:
            self.settle_doubtful("interrupted")
            raise StudyError(
                f"{_MOST_DOUBTFUL} trainings in a row failed, and not by what their variants are; the last: {text}\n"
                "mend that and start the search again: it will try them anew"
            )
        return replace(handle.trial, status="failed")

    def settle_doubtful(self, status: Status) -> None:
        """End the trials whose failure may have been the machine's."""
        for handle in self.doubtful:
            handle.end(status=status)
        self.doubtful = []

    def job(self, variant: Variant, yaml: str, recipe: Recipe, init: str | None) -> ProxyJob:
        """Return the training of a variant."""
        return ProxyJob(
            name=variant.name,
            yaml=yaml,
            base=variant.base,
            scale=variant.scale,
            swaps=variant.swaps,
            data=str(self.data),
            data_key=self.settings.fingerprint,
            recipe=recipe,
            seed=self.settings.seed,
            init=init,
            scratch=str(_scratch(self.study)),
        )


def _cost_fields(files: ModelFiles, cost: Cost) -> dict[str, Any]:
    """Return what a trial keeps of a variant's files and cost."""
    return {
        "yaml": files.yaml,
        "params": cost.params,
        "gflops": cost.gflops,
        "stock_gflops": cost.stock_gflops,
        "uncounted": cost.uncounted,
    }


def over_limit(space: SearchSpace, cost: Cost) -> str:
    """Say which of the space's limits a cost exceeds; empty if none."""
    limits = dict(space.limits)
    if cost.gflops > limits.get("max_gflops", float("inf")):
        return f"{cost.gflops:.2f} GFLOPs, over the limit of {limits['max_gflops']:g}"
    if cost.params > limits.get("max_params", float("inf")):
        return f"{cost.params} parameters, over the limit of {limits['max_params']:g}"
    return ""


def propose(space: SearchSpace, trials: Sequence[Trial], seed: int, floor: float) -> dict[str, str] | None:
    """Return what to try next, or None when every allowed variant has been tried.

    Args:
        space: What may be tried.
        trials: What has been.
        seed: Of the study; with the trials so far it decides the answer.
        floor: As in `nas.rank.rank`.
    """
    known = {_key(t.assignment) for t in trials if t.spent or t.status in ("rejected", "running")}
    for assignment in [space.baseline(), *space.single_swaps()]:
        if _key(assignment) not in known:
            return assignment
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{len(known)}".encode()).digest()[:4], "big")
    shadow = _shadow_study(space, trials, floor, drawn)
    kinds: dict[str, optuna.distributions.BaseDistribution] = dict(_kinds(space))
    for _ in range(30):
        asked = shadow.ask(fixed_distributions=kinds)
        assignment = {slot.key: str(asked.params[slot.key]) for slot in space.active}
        if _key(assignment) not in known and not space.forbids(assignment):
            return assignment
        shadow.tell(asked, state=optuna.trial.TrialState.FAIL)
    return _any_new(space, known, random.Random(drawn))


def _key(assignment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(assignment.items()))


def _kinds(space: SearchSpace) -> dict[str, optuna.distributions.CategoricalDistribution]:
    return {slot.key: optuna.distributions.CategoricalDistribution(slot.choices) for slot in space.active}


def _shadow_study(space: SearchSpace, trials: Sequence[Trial], floor: float, seed: int) -> optuna.Study:
    """Return a study in memory that knows the finished trials by the ranking's score, to ask a sampler.

    The stored study is not asked itself: it would record every proposal that turns out to be a duplicate.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=1, seed=seed)
    shadow = optuna.create_study(direction="maximize", sampler=sampler)
    base = baseline_of(trials)
    for t in trials:
        if t.status == "done":
            score = search_score(t, base, floor)
            shadow.add_trial(
                optuna.trial.create_trial(params=dict(t.assignment), distributions=dict(_kinds(space)), value=score)
            )
    return shadow


def _any_new(space: SearchSpace, known: set[tuple[tuple[str, str], ...]], rng: random.Random) -> dict[str, str] | None:
    """Return an allowed assignment that has not been tried, uniformly; None if there is none."""
    if space.size <= 20_000:
        fresh = [a for a in space.assignments() if _key(a) not in known]
        return rng.choice(fresh) if fresh else None
    for _ in range(10_000):
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.active}
        if _key(assignment) not in known and not space.forbids(assignment):
            return assignment
    return None
