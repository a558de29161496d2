"""What a report shows of a study, read once: a snapshot of its trials and the ranking of that moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from nas.errors import NasError, StudyError
from nas.full.ranking import FullRow, groups_of, rank_full
from nas.full.run import FullRun
from nas.full.store import FullRuns
from nas.ranking.effects import Effects, estimate_effects
from nas.ranking.race import find_winner
from nas.ranking.rank import RankRow, ranking_of
from nas.ranking.verdict import LEAST_SEEDS
from nas.ranking.yardstick import measured_yardsticks
from nas.space.choice import KEEP, NONE
from nas.study.settings import Settings
from nas.study.study import Study
from nas.study.trial import Trial

_Value = TypeVar("_Value")

VERDICTS = {
    "better": ("▲", "better", "better than the baseline"),
    "worse": ("▼", "worse", "worse than the baseline"),
    "unsure": ("●", "cannot tell", "cannot tell from the baseline"),
    "single": ("◇", "1 seed", "one seed: no verdict"),
    "base": ("◆", "baseline", "the baseline"),
}
"""Kind of a row to its sign, its word and its legend. The kind is also the name of its colour in the page."""


def _quiet(_text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Source:
    """A study as a report sees it.

    Attributes:
        study: The study.
        runs: All of its trials.
        rows: Its ranking.
        problems: What could not be shown, one line each; the sections add to it.
        pictures: Whether the baseline and the winner detect on validation images, where the study has weights of both.
        note: Called with what is being done, before it takes its time.
    """

    study: Study
    runs: tuple[Trial, ...]
    rows: tuple[RankRow, ...]
    problems: list[str] = field(default_factory=list)
    pictures: bool = False
    note: Callable[[str], None] = _quiet

    @property
    def settings(self) -> Settings:
        """Settings of the study."""
        return self.study.settings

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.location.name

    @cached_property
    def base(self) -> RankRow | None:
        """The row of the baseline."""
        return next((row for row in self.rows if row.trial.variant.is_baseline), None)

    @cached_property
    def winner(self) -> RankRow | None:
        """The row that the study recommends; None without a ranking."""
        return find_winner(self.study, list(self.rows)) if self.rows else None

    @cached_property
    def place(self) -> dict[int, int]:
        """Number of a row's trial to its place in `rows`, from 0."""
        return {row.trial.number: i for i, row in enumerate(self.rows)}

    @cached_property
    def effects(self) -> Effects | None:
        """Effects of swaps; None where no variant has finished."""
        s = self.settings
        own = [t for t in self.runs if not t.fidelity]
        if self.base is None or len(self.rows) < 2:
            return None
        return self.attempt("effects", lambda: estimate_effects(own, s.space.active, s.error))

    @cached_property
    def yardsticks(self) -> list[RankRow]:
        """The baseline pruned uniformly to smaller widths, as far as that was measured, by GFLOPs."""
        return self.attempt("yardsticks", lambda: measured_yardsticks(self.study)) or []

    @cached_property
    def full_runs(self) -> list[FullRun]:
        """All full trainings of the study."""
        return self.attempt("full trainings", lambda: FullRuns(self.study.location).read()) or []

    @cached_property
    def full(self) -> list[FullRow]:
        """The ranking of the newest full trainings that are comparable; empty without any."""
        newest = next(iter(groups_of(self.full_runs).values()), [])
        s = self.settings
        return rank_full(newest, s.floor, by_map=s.objective == "map") if newest else []

    @property
    def running(self) -> int:
        """Number of trainings that had started and not ended."""
        return sum(t.status == "running" for t in self.runs)

    def attempt(self, what: str, make: Callable[[], _Value]) -> _Value | None:
        """Return what a function makes; where it fails, None, and the reason among the problems."""
        try:
            return make()
        except (NasError, OSError) as error:
            self.problems.append(f"{what}: left out, {' '.join(str(error).split())}")
            return None


def read_source(study: Study, *, pictures: bool = False, note: Callable[[str], None] = _quiet) -> Source:
    """Return a snapshot of a study.

    Args:
        study: The study.
        pictures: As `Source.pictures`.
        note: As `Source.note`.

    Raises:
        StudyError: It is damaged.
        StorageError: Its storage cannot be read.
    """
    return Source(study, tuple(study.runs()), tuple(ranking_of(study)), pictures=pictures, note=note)


def read_sources(
    opened: Sequence[Callable[[], Study]], *, pictures: bool = False, note: Callable[[str], None] = _quiet
) -> tuple[list[Source], list[str]]:
    """Return the snapshots of studies that can be read, and why the others cannot, one line each.

    Args:
        opened: What opens each study.
        pictures: As `Source.pictures`.
        note: As `Source.note`.

    Raises:
        NasError: None of them can be read; with several, the message has a line for each.
    """
    found, problems = [], []
    for open_study in opened:
        try:
            found.append(read_source(open_study(), pictures=pictures, note=note))
        except NasError as error:
            if len(opened) == 1:
                raise
            problems.append(str(error))
    if not found:
        raise StudyError("\n".join(problems))
    return found, problems


def kind_of(row: RankRow) -> str:
    """Return the key of a row in `VERDICTS`; one seed has an interval, but never a verdict."""
    if row.trial.variant.is_baseline:
        return "base"
    if row.seeds < LEAST_SEEDS:
        return "single"
    return row.verdict if row.verdict in ("better", "worse") else "unsure"


def swaps_of(trial: Trial) -> list[tuple[str, str]]:
    """Return the swaps of a variant as the space names them: slot and label, sorted."""
    return [(k, v) for k, v in sorted(trial.assignment.items()) if v not in (KEEP, NONE)]


def words_of(trial: Trial) -> list[tuple[str, str]]:
    """Return the swaps of a variant as they are printed: slots that share a choice together, and the choice."""
    groups = [part.partition("=") for part in trial.describe().split("  ")]
    return [(slots, label) if equals else ("", slots) for slots, equals, label in groups]


def short(row: RankRow, most: int = 60) -> str:
    """Return the swaps of a row, cut where they are long: the whole text is in the ranking and where one points."""
    text = row.trial.describe()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plotly_text(text: str) -> str:
    """Return a text in which Plotly finds no tag and no entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")
