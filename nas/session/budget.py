"""`nas search --budget MINUTES`: what of a study fits into a time, by how fast this machine trains.

A new study's time is estimated from a timed probe (`nas.session.probe`): of its baselines, its bank, its trials and its
confirmation. The first step of a ladder that fits is taken: fewer epochs come before fewer trials, and those before a
study without confirmation. On a GPU the target's own image size comes before the cheapest that does. What the user
gives is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from nas.bank.store import candidates_of
from nas.data.fidelity import Fidelity, choose_fidelity
from nas.data.levels import Labelled
from nas.device import CPU
from nas.errors import OptionError
from nas.ranking.race import rules_of
from nas.search.next_step import is_complete
from nas.session.options import SearchOptions
from nas.study.budget import Confirm
from nas.study.settings import PER_SEED, Settings
from nas.study.study import Study
from nas.training.recipe import Recipe
from nas.workers.count import fitting_workers

FEW = 12
"""Number of trials below which epochs and confirmation are given up before further trials."""
_SET_UP_S = 2.0
"""Seconds that a training takes in addition to its images: building, assembling, storing."""
_REFRESH = 128
"""Training images of which a variant from the bank takes its BatchNorm statistics, at a forward pass each."""
_FORWARD = 1 / 3
"""Cost of a forward pass over that of a training step."""
_CANDIDATE = 0.08
"""Cost of distilling one candidate on an image over that of training on it: a mean over the space seeds, on bccd."""
_MOST_TRIALS = 1000
"""Largest number of trials that a budget chooses."""
_EPOCHS: dict[str, tuple[int, ...]] = {"bank": (4, 2, 0)}
"""Epochs of a proxy by its initial weights, the best first."""
_EPOCHS_WITHOUT_BANK = (8, 4, 2)


@dataclass(frozen=True)
class Pace:
    """Seconds that one training process takes for a training image and for a validation image."""

    train: float
    val: float


@dataclass(frozen=True)
class Work:
    """What a study consists of, as far as its time depends on it.

    Attributes:
        images: Training and validation images.
        init: As `nas.training.recipe.Recipe.init`.
        candidates: Number of candidates of the bank, and `slots` of its layers.
        bank_epochs: Epochs of distilling it.
        seeds: Seeds of each variant in the screening.
        per_seed: Whether each seed trains its own baseline.
        workers: Parallel trainings.
        validations: Validations of a training.
        wanted: Trials of a study without a budget.
        most: Largest number of trials that makes sense.
    """

    images: tuple[int, int]
    init: str
    candidates: int
    slots: int
    bank_epochs: int
    seeds: int
    per_seed: bool
    workers: int
    validations: int
    wanted: int
    most: int


@dataclass(frozen=True)
class Choice:
    """What a budget decides.

    Attributes:
        fidelity: What proxies see.
        epochs: Epochs of a proxy.
        trials: Number of trials.
        confirm: The confirmation.
        base_epochs: Epochs of the baseline; None leaves them as they would be without a budget.
        longest: The epochs that it takes at most.
    """

    fidelity: Fidelity
    epochs: int
    trials: int
    confirm: Confirm
    base_epochs: int | None
    longest: int

    def parts(self, pace: Pace, work: Work) -> dict[str, float]:
        """Return the seconds of each part of the study."""
        train, val = work.images
        validated = val * pace.val
        run = _SET_UP_S + train * pace.train * self.epochs + validated * max(1, min(work.validations, self.epochs))
        seeds = max(work.seeds, self.confirm.seeds if self.confirm.top else 0)
        further = max(0, self.confirm.seeds - work.seeds) if self.confirm.top else 0
        found = {"baseline": 0.0, "bank": 0.0}
        if work.init in ("bank", "baseline"):
            rounds = math.ceil(seeds / work.workers) if work.per_seed else 1
            found["baseline"] = rounds * (train * pace.train * self.longest + 3 * validated)
        if work.init == "bank":
            run += _REFRESH * pace.train * _FORWARD
            step = pace.train * (_FORWARD + _CANDIDATE * work.candidates)
            distilled = work.bank_epochs * train * step + validated * work.slots
            found["bank"] = distilled / work.workers + further * work.bank_epochs * train * pace.train * (
                _FORWARD + _CANDIDATE * 2 * self.confirm.top
            )
        found["trials"] = math.ceil(self.trials * work.seeds / work.workers) * run
        found["confirmation"] = math.ceil((self.confirm.top + 1) * further / work.workers) * run if further else 0.0
        return {name: seconds for name, seconds in found.items() if seconds}


@dataclass(frozen=True)
class Plan:
    """A choice that fits, with the seconds of its parts and the pace that they were estimated from."""

    choice: Choice
    parts: dict[str, float]
    pace: Pace

    def apply(self, options: SearchOptions) -> SearchOptions:
        """Return the options with what the budget decides."""
        c = self.choice
        made = replace(options, budget=None, epochs=c.epochs, trials=c.trials, confirm=c.confirm)
        if c.base_epochs is not None:
            made = replace(made, base_epochs=c.base_epochs)
        if options.imgsz or options.window or options.proxy or not options.data:
            return made
        if c.fidelity.windows_at:
            return replace(made, window=c.fidelity.imgsz)
        return replace(made, imgsz=c.fidelity.imgsz)

    def words(self, minutes: float) -> str:
        """Return what was chosen, and why."""
        c = self.choice
        names = {"baseline": f"baseline of {c.longest} epochs at most"}
        parts = ", ".join(f"{names.get(name, name)} {_minutes(seconds)}" for name, seconds in self.parts.items())
        return (
            f"budget of {minutes:g} min: proxies {c.fidelity.words}, {c.epochs} epoch{'s' * (c.epochs != 1)}; "
            f"{c.trials} trials; confirmation {c.confirm}. Estimate: {_minutes(sum(self.parts.values()))} min "
            f"({parts}), by a probe: {1000 * self.pace.train:.0f} ms a training image"
        )


def plan_new(
    settings: Settings,
    images: Sequence[Labelled],
    options: SearchOptions,
    confirm: Confirm,
    wanted: int,
    pace_of: Callable[[Fidelity], Pace | None],
) -> Plan:
    """Return what a new study does within the budget that its options give.

    Args:
        settings: Those that the study would have without a budget.
        images: The training images, from which the cheapest adequate proxy is chosen; none of classification.
        options: Of the user, which are not changed.
        confirm: The confirmation that it would have.
        wanted: The number of trials that it would have.
        pace_of: As for `choose`.

    Raises:
        OptionError: Nothing fits, or an option cannot be combined with a budget.
    """
    recipe, minutes = settings.recipe, options.budget or 0.0
    if options.rungs:
        raise OptionError("--budget chooses one proxy for all trials, and --rungs names several: give one of them")
    own = Fidelity(recipe.imgsz, recipe.windows_at)
    fidelities: tuple[Fidelity, ...] = (own,)
    if images and recipe.device != CPU and settings.target and not (options.imgsz or options.window or options.proxy):
        fidelities = tuple(dict.fromkeys((own, choose_fidelity(images, settings.target))))
    fixed = options.epochs is not None or options.proxy
    epochs: tuple[int, ...] = (recipe.epochs,) if fixed else _EPOCHS.get(recipe.init, _EPOCHS_WITHOUT_BANK)
    if not (fixed or options.data):  # the demo's default is less than what fits
        epochs = tuple(e for e in epochs if e <= recipe.epochs) or (recipe.epochs,)
    candidates = candidates_of(settings.space) if recipe.init == "bank" else ()
    work = Work(
        images=settings.images,
        init=recipe.init,
        candidates=len(candidates),
        slots=len({c.slot for c in candidates}),
        bank_epochs=recipe.bank_epochs,
        seeds=options.seeds or 1,
        per_seed=settings.baselines == PER_SEED,
        workers=options.workers or fitting_workers(recipe.device, recipe.batch, own.imgsz, settings.space.width),
        validations=recipe.validations,
        wanted=min(options.trials or wanted, settings.space.size),
        most=options.trials or min(settings.space.size, _MOST_TRIALS),
    )
    return choose(minutes, _ladder(options, work, fidelities, epochs, _bases(recipe, options), confirm), work, pace_of)


def _bases(recipe: Recipe, options: SearchOptions) -> tuple[tuple[int | None, int], ...]:
    """Return the epochs of the baseline that may be chosen, as in `Choice`, the best first."""
    own = (None, recipe.base_until or recipe.base_epochs)
    if options.base_epochs is not None or not recipe.trains_baseline or not options.data:
        return (own,)
    shorter = (20, 10) if recipe.weights else (40, 20)
    return (own, *((epochs, epochs) for epochs in shorter if epochs < own[1]))


def choose(minutes: float, steps: Iterator[Choice], work: Work, pace_of: Callable[[Fidelity], Pace | None]) -> Plan:
    """Return the first choice of a ladder that fits, with as many trials as fit.

    Args:
        minutes: The budget.
        steps: Choices with the fewest trials that each is worth, the best first.
        work: What the study consists of.
        pace_of: Measures the pace at a fidelity; None if nothing can be trained there.

    Raises:
        OptionError: None fits; the message says what would do.
    """
    paces: dict[Fidelity, Pace | None] = {}
    cheapest: tuple[float, Choice, dict[str, float]] | None = None
    for choice in steps:
        if choice.fidelity not in paces:
            paces[choice.fidelity] = pace_of(choice.fidelity)
        if not (pace := paces[choice.fidelity]):
            continue
        parts = choice.parts(pace, work)
        total = sum(parts.values())
        if total <= 60 * minutes:
            full = _filled(choice, work, pace, 60 * minutes)
            return Plan(full, full.parts(pace, work), pace)
        if cheapest is None or total < cheapest[0]:
            cheapest = total, choice, parts
    if cheapest is None:
        raise OptionError(f"--budget {minutes:g}: the timed probe ran out of memory: give a smaller --batch or --imgsz")
    total, choice, parts = cheapest
    least = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in parts.items())
    raise OptionError(
        f"--budget {minutes:g} is too short here: {choice.trials} trials of {choice.epochs} epochs on "
        f"{choice.fidelity.words} take about {_minutes(total)} min ({least}); give --budget {math.ceil(total / 60)} or "
        "more, a smaller space, or trained weights for a baseline of fewer epochs (--weights FILE.pt --base-epochs 10)"
    )


def _ladder(
    options: SearchOptions,
    work: Work,
    fidelities: tuple[Fidelity, ...],
    epochs: tuple[int, ...],
    bases: tuple[tuple[int | None, int], ...],
    confirm: Confirm,
) -> Iterator[Choice]:
    """Yield the choices for a budget, the best first, each with the fewest trials that it is worth."""
    wanted = work.wanted
    few = wanted if options.trials else min(wanted, FEW)
    confirms = (confirm,) if options.confirm is not None or not confirm.top else (confirm, Confirm())
    steps = [(f, e, confirm, wanted) for f in fidelities for e in epochs[:2]]
    steps += [(f, e, confirm, wanted) for f in fidelities for e in epochs[2:]]
    steps += [(f, epochs[-1], sure, few) for sure in confirms for f in fidelities]
    for fidelity, count, sure, trials in steps:
        for base, longest in bases:
            yield Choice(fidelity, count, trials, sure, base, longest)


def further_trials(study: Study, minutes: float, workers: int) -> tuple[int | None, str]:
    """Return how many further trials of a study fit into a budget by what its trials took, and words for that.

    It is None while an earlier request of the study is not finished: that is finished first.

    Raises:
        OptionError: No trial has succeeded, or not even one fits.
    """
    name = study.location.name
    if study.spent < study.target or not is_complete(study.runs(), study.settings, rules_of(study)):
        first = f"the study {name!r} first finishes its request of {study.target} trials, with the proxy that it has"
        return None, f"budget of {minutes:g} min: {first}"
    seconds = sum(t.seconds for t in study.runs() if t.status == "done")
    if not seconds:
        raise OptionError(
            f"--budget {minutes:g}: no trial of the study {name!r} has succeeded: give --trials N instead"
        )
    each = seconds / study.spent / workers
    count = int(60 * minutes / each)
    if not count:
        raise OptionError(
            f"--budget {minutes:g} is too short for a further trial of the study {name!r}: one takes about "
            f"{_minutes(each)} min with its further seeds; give --budget {math.ceil(each / 60)} or more"
        )
    return count, f"budget of {minutes:g} min: {count} further trials, at {_minutes(each)} min each so far"


def _filled(choice: Choice, work: Work, pace: Pace, seconds: float) -> Choice:
    """Return a choice with as many trials as fit."""
    low, high = choice.trials, max(choice.trials, work.most)
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(replace(choice, trials=middle).parts(pace, work).values()) <= seconds
        low, high = (middle, high) if fits else (low, middle - 1)
    return replace(choice, trials=low)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:.0f}"
