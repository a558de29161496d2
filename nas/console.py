"""What a person reads: tables, and the progress of a search. Only the command line imports this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nas.proxy import EpochScore, Recipe
from nas.rank import RankRow, baseline_of, rank
from nas.study import Study
from nas.trial import Trial

_WIDTH_WHEN_PIPED = 140
_WIDE = 115
"""Columns from which on the ranking is shown whole."""


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; where the output is no terminal its lines are wide and plain."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=_WIDTH_WHEN_PIPED, no_color=True)
    return console


def ranking_table(rows: Sequence[RankRow], width: int) -> Table:
    """Return the ranking as a table; on a narrow terminal without the columns that can be missed most easily."""
    columns: dict[str, Callable[[RankRow], str]] = {
        "#": lambda r: f"{r.rank}{'*' if r.on_front else ' '}",
        "variant": lambda r: r.trial.variant.id,
        "swaps": lambda r: ("(below the floor) " if r.below_floor else "") + r.trial.describe(),
        "mAP50-95": lambda r: f"{r.trial.map:.3f}",
        "Δ": lambda r: "" if r.delta_map is None or r.trial.variant.is_baseline else f"{r.delta_map:+.3f}",
        "95 %": lambda r: f"{r.interval[0]:+.3f}…{r.interval[1]:+.3f}" if r.interval else "–",
        "verdict": lambda r: r.verdict if r.seeds > 1 or r.trial.variant.is_baseline else "1 seed",
        "GFLOPs": lambda r: f"{r.trial.gflops:.2f}",
        "Δ%": lambda r: "" if r.delta_gflops is None or r.trial.variant.is_baseline else f"{100 * r.delta_gflops:+.1f}",
        "params": lambda r: f"{r.trial.params / 1e6:.2f}M",
        "mAP/GFLOP": lambda r: f"{r.trial.map_per_gflop:.4f}",
    }
    if width < _WIDE:
        for name in ("95 %", "verdict", "params", "Δ%"):
            del columns[name]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        if name == "swaps":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, no_wrap=True, justify="left" if name in ("variant", "verdict") else "right")
    for row in rows:
        cells = [value(row) for value in columns.values()]
        table.add_row(*cells, style="bold" if row.trial.variant.is_baseline else None)
    return table


def ranking_notes(study: Study) -> list[str]:
    """Return what has to be said under a ranking."""
    s = study.settings
    trials = study.trials()
    rows = rank(trials, s.floor)
    recipe = s.recipe
    notes = [
        (
            f"Proxy: {recipe.epochs} epochs at {recipe.imgsz} px, batch {recipe.batch}, seed {s.seed}, "
            f"{_init_words(study)}; {s.images[0]} training and {s.images[1]} validation images "
            f"of {s.data or 'the demo data'}."
        ),
        "GFLOPs: Ultralytics' convention at 640 px and the YAML's classes, with the work that its counter misses.",
        (
            f"Floor: variants that lose more than {s.floor:g} mAP50-95 against the baseline stand below the others. "
            "* on the Pareto front of mAP and GFLOPs."
        ),
        "One seed a variant: a difference no larger than the spread between seeds says nothing. This is a screening.",
    ]
    wrong = [r.trial for r in rows if r.trial.gflops - r.trial.stock_gflops > 0.005 * r.trial.gflops]
    if wrong:
        worst = max(wrong, key=lambda t: t.gflops - t.stock_gflops)
        notes.append(
            f"Ultralytics' own counter would have said less for {len(wrong)} of {len(rows)} variants, "
            f"such as {worst.stock_gflops:.2f} in place of {worst.gflops:.2f} for {worst.variant.id}."
        )
    for status, words in (("failed", "failed"), ("rejected", "over a limit"), ("running", "running, or cut short")):
        notes += [f"{words}: {t.variant.id} ({t.describe()}) {t.failure}" for t in trials if t.status == status]
    return notes


def _init_words(study: Study) -> str:
    recipe = study.settings.recipe
    if recipe.init == "scratch":
        return "from scratch"
    if recipe.init != "baseline":
        return f"inheriting from {recipe.init}"
    curve = study.baseline_training
    reached = f" (mAP50-95 {curve[-1].map:.3f})" if curve else ""
    return f"inheriting from a baseline of {recipe.base_epochs} epochs{reached}"


def conclusion(study: Study) -> list[str]:
    """Return what was compared, what won and by how much, and what to type next."""
    trials = study.trials()
    rows = rank(trials, study.settings.floor)
    base = baseline_of(trials)
    if not rows:
        return ["No variant has finished yet."]
    if base is None:
        return ["The baseline has not finished: there is nothing to compare these variants with yet."]
    best = rows[0]
    name = study.place.name
    told = f"Compared {len(rows)} variants of {best.trial.variant.base}{best.trial.variant.scale}."
    if len(rows) == 1:
        told = "Only the baseline has finished yet."
    elif best.trial.variant.is_baseline:
        told += " No swap beats the baseline in mAP50-95 per GFLOP."
    else:
        gain = best.trial.map_per_gflop / base.map_per_gflop - 1 if base.map_per_gflop else 0.0
        told += (
            f" First: {best.trial.describe()}, with {gain:+.1%} mAP50-95 per GFLOP over the baseline"
            f" ({best.delta_map:+.3f} mAP50-95, {100 * (best.delta_gflops or 0):+.1f} % GFLOPs)."
        )
    if base.map < 0.02:
        told += " The baseline has hardly learnt anything: give it more epochs before you read the order."
    where = f"--study {name}" + ("" if study.place.is_default else f" --storage {study.place.url}")
    return [told, f"Next:  nas emit-yaml {where} --best -o out/", f"       nas search {where} --trials 10"]


class Progress:
    """Tells a person how a search goes: a live line on a terminal, plain lines elsewhere. See `nas.search.Observer`."""

    def __init__(self, console: Console, study: Study) -> None:
        self.console = console
        self.floor = study.settings.floor
        self._live: Live | None = None
        self._head = ""
        self._since = 0.0
        self._finished = study.trials()

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(Text(""), console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def baseline_training(self, recipe: Recipe) -> None:
        """See `nas.search.Observer`."""
        self._begin(f"training the baseline that variants inherit from ({recipe.epochs} epochs, once per study)")

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """See `nas.search.Observer`."""
        self._begin(f"[{position}/{target}] {trial.describe()} ({trial.gflops:.2f} GFLOPs)")

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """See `nas.search.Observer`."""
        left = (time.monotonic() - self._since) / score.epoch * (epochs - score.epoch)
        line = f"{self._head}  epoch {score.epoch}/{epochs}  mAP50-95 {score.map:.3f}  {_duration(left)} left"
        if self._live:
            self._live.update(Group(Text(line), Text(self._best(), style="dim")))
        elif score.epoch in (1, epochs) or score.epoch % max(1, epochs // 4) == 0:
            self.console.print(f"  {line}", markup=False)

    def trial_ended(self, trial: Trial) -> None:
        """See `nas.search.Observer`."""
        words = {"done": f"mAP50-95 {trial.map:.3f}, {trial.map_per_gflop:.4f} per GFLOP, {_duration(trial.seconds)}"}
        text = words.get(trial.status, f"{trial.status}: {trial.failure}")
        self.console.print(f"trial {trial.number}: {trial.describe()}: {text}", markup=False)
        self._finished.append(trial)

    def note(self, text: str) -> None:
        """See `nas.search.Observer`."""
        self.console.print(text, markup=False)

    def _begin(self, head: str) -> None:
        self._head, self._since = head, time.monotonic()
        if self._live:
            self._live.update(Text(f"{head}  starting"))
        else:
            self.console.print(head, markup=False)

    def _best(self) -> str:
        rows = rank(self._finished, self.floor)
        return (
            f"best so far: {rows[0].trial.describe()}, {rows[0].trial.map_per_gflop:.4f} mAP50-95 per GFLOP"
            if rows
            else ""
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
