"""The progress of a search, and of a calibration, on the console."""

from __future__ import annotations

import copy
import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nas.calibration.run_log import Finished, Run
from nas.ranking.rank import rank_trials
from nas.space.bases import shown_task
from nas.study.study import Study
from nas.study.trial import Trial
from nas.task.task import DETECT
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore

_ESTIMATE_AFTER_S = 20.0
"""How long a calibration has to run before its remaining time is estimated."""
_QUIET_S = 60.0
"""Seconds without a line after which the progress of a long step is printed where nothing is live."""


class Progress:
    """Shows the progress of a search (see `SearchObserver`): live lines on a terminal, else plain lines."""

    def __init__(self, console: Console, study: Study) -> None:
        self.console = console
        self.floor, self.goal = study.settings.floor, study.settings.goal
        self._seed = study.settings.seed
        self._task = shown_task(study.settings.space.base)
        self._live: Live | None = None
        self._texts: dict[int, str] = {}
        self._number: int | None = None
        self._head = ""
        self._since = 0.0
        self._first_step: tuple[float, int] | None = None
        self._printed = 0.0
        self._finished = study.runs()
        self._rungs = {rung.fidelity: rung.words for rung in study.settings.rungs}

    def for_worker(self, number: int) -> Progress:
        """See `SearchObserver`: a copy for one worker that shares the console and the finished trials."""
        other = copy.copy(self)
        other._number = number
        return other

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(Text(""), console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def baseline_training(self, recipe: Recipe, seed: int) -> None:
        """See `SearchObserver`."""
        whose = "variants inherit" if seed == self._seed else f"variants of seed {seed} inherit"
        self._begin(f"training the baseline that {whose} from ({recipe.epochs} epochs; it is stored)", print_now=True)

    def distilling(self, count: int) -> None:
        """See `SearchObserver`."""
        self._begin(f"distilling the bank: {count} swaps learn from the baseline at once; it is stored", print_now=True)

    def scoring(self, count: int) -> None:
        """See `SearchObserver`."""
        self._begin(f"scoring {count} swaps by how far they move the network's outputs; it is stored", print_now=True)

    def steps(self, done: int, total: int) -> None:
        """See `SearchObserver`; the first step includes the setup, so the estimate starts after it."""
        now = time.monotonic()
        since, first = self._first_step = self._first_step or (now, done)
        line = f"{self._head}  step {done}/{total}"
        if done > first:
            line += f"  {_duration((now - since) / (done - first) * (total - done))} left"
        self._show(line)

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """See `SearchObserver`."""
        self._begin(f"[{position}/{target}] {self._named(trial)} ({trial.gflops:.2f} GFLOPs)")

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """See `SearchObserver`."""
        if not score.epoch:  # weights that were validated without training
            return
        left = (time.monotonic() - self._since) / score.epoch * (epochs - score.epoch)
        self._show(
            f"{self._head}  epoch {score.epoch}/{epochs}  {self._task.said(_reached(score))}{_duration(left)} left"
        )

    def trial_ended(self, trial: Trial) -> None:
        """See `SearchObserver`."""
        metric = shown_task(trial.variant.base).said("mAP50-95")
        words = {"done": f"{metric} {trial.map:.3f}, {trial.map_per_gflop:.4f} per GFLOP, {_duration(trial.seconds)}"}
        text = words.get(trial.status, f"{trial.status}: {trial.failure}")
        self.console.print(f"trial {trial.number}: {self._named(trial)}: {text}", markup=False)
        if trial.variant.width is None:  # no yardstick
            self._finished.append(trial)

    def _named(self, trial: Trial) -> str:
        """Return a trial's swaps, its seed unless it is the study's first, and its rung if it is a lower one."""
        rung = f", {self._rungs[trial.fidelity]}" if trial.fidelity else ""
        return trial.describe() + ("" if trial.seed == self._seed else f", seed {trial.seed}") + rung

    def note(self, text: str) -> None:
        """See `SearchObserver`."""
        self.console.print(self._task.said(text), markup=False)

    def _begin(self, head: str, *, print_now: bool = False) -> None:
        self._head, self._first_step = head, None
        self._since = self._printed = time.monotonic()
        if print_now and not self._live:
            self.console.print(head, markup=False)
        self._show(f"{head}  starting")

    def _show(self, line: str) -> None:
        """Show the state of this worker; where nothing is live, print it if the worker has been quiet for long."""
        if not self._live:
            if time.monotonic() - self._printed > _QUIET_S:
                self._printed = time.monotonic()
                worker = "" if self._number is None else f"worker {self._number + 1}: "
                self.console.print(f"  {worker}{line}", markup=False)
            return
        self._texts[self._number or 0] = line
        lines = [
            Text(text, overflow="ellipsis", no_wrap=len(self._texts) > 1) for _, text in sorted(self._texts.items())
        ]
        best = self._best()
        self._live.update(Group(*lines, *([Text(best, style="dim")] if best else [])))

    def _best(self) -> str:
        rung = self._finished[-1].fidelity if self._finished else ""
        rows = rank_trials([t for t in self._finished if t.fidelity == rung], self.floor, self.goal)
        if not rows:
            return ""
        best = rows[0].trial
        return f"best so far: {best.describe()}, {best.map_per_gflop:.4f} {self._task.said('mAP50-95')} per GFLOP"


class CalibrationProgress(Progress):
    """Prints the progress of a calibration, one line per run. See `CalibrationObserver`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live, self._head, self._since, self._number = None, "", 0.0, None
        self._printed, self._seed, self._task = 0.0, 0, DETECT
        self._first: tuple[float, float] | None = None

    def steps(self, done: int, total: int) -> None:
        """See `CalibrationObserver`; not shown, for banks are distilled in parallel and would mix."""

    def run_ended(self, run: Run, done: Finished, position: int, total: int, left: float) -> None:
        """See `CalibrationObserver`."""
        now = time.monotonic()
        since, then = self._first = self._first or (now, left)
        self._task = shown_task(run.variant.base)
        what = f"control {', '.join(run.controls)}" if run.controls else run.variant.describe()
        said = f"{self._task.said('mAP50-95')} {done.scores['map']:.3f}" if done.result else f"failed: {done.failure}"
        if now - since > _ESTIMATE_AFTER_S and position < total:
            said += f"  about {_duration((now - since) / (then - left) * left)} left"
        self.console.print(f"[{position}/{total}] {run.proxy}, seed {run.seed}: {what}: {said}", markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _reached(score: EpochScore) -> str:
    """Return the mAP of an epoch, or its loss if it was not validated."""
    if score.validation:
        return f"mAP50-95 {score.validation.map:.3f}  "
    return f"loss {score.train_loss:.2f}  "
