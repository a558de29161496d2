"""Searches and studies in Python, for notebooks and scripts: what `nas search`, `nas rank` and `nas report` do.

    import nas
    import pandas as pd

    study = nas.load_study("blood")
    pd.DataFrame(study.ranking())
    study.report("report.html")

Reading imports neither torch nor Ultralytics; `search` trains, in processes of its own. A script that calls `search`
needs the guard ``if __name__ == "__main__":``, as these processes import it; a notebook does not.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.errors import OptionError, StudyError, shown
from nas.model.offline import set_offline
from nas.ranking.race import find_winner
from nas.ranking.rank import RankRow, ranking_of
from nas.ranking.verdict import LEAST_SEEDS
from nas.study.catalog import store_verdicts
from nas.study.location import StudyLocation, locate
from nas.study.study import Study

if TYPE_CHECKING:
    from nas.ranking.effects import Effects
    from nas.session.options import SearchOptions


@dataclass(frozen=True)
class RankedVariant:
    """A variant of a ranking, as plain values: a list of these is what ``pandas.DataFrame`` takes.

    Attributes:
        rank: From 1.
        id: ID of the variant, 8 hexadecimal digits; `nas emit-yaml` takes it.
        swaps: Its swaps in one line; ``baseline`` for none.
        map50_95: Mean mAP50-95 over seeds; in a study of masks, key points or oriented boxes, that of these.
        map50: Mean mAP50 over seeds.
        delta_map50_95: Difference of mAP50-95 to the baseline under the same seeds; None without a common seed.
        interval_low: Lower end of the 95 % interval of that difference; None if the error is unknown.
        interval_high: Its upper end.
        verdict: ``baseline``, ``better``, ``worse`` or ``cannot tell``.
        seeds: Number of seeds that it is compared under.
        gflops: GFLOPs at 640 px.
        delta_gflops_percent: Change of GFLOPs to the baseline in percent; None without a baseline.
        params: Parameters.
        latency_ms: Latency of one image in milliseconds; None if it was not measured.
        map50_95_per_gflop: mAP50-95 over GFLOPs.
        on_front: Whether it is on the Pareto front of mAP and cost.
        below_floor: Whether it clearly loses more mAP than the study allows.
    """

    rank: int
    id: str
    swaps: str
    map50_95: float
    map50: float
    delta_map50_95: float | None
    interval_low: float | None
    interval_high: float | None
    verdict: str
    seeds: int
    gflops: float
    delta_gflops_percent: float | None
    params: int
    latency_ms: float | None
    map50_95_per_gflop: float
    on_front: bool
    below_floor: bool

    @classmethod
    def of(cls, row: RankRow) -> RankedVariant:
        """Return a row of `nas.ranking.rank.ranking_of` as plain values."""
        t, ends = row.trial, row.interval or (None, None)
        return cls(
            rank=row.rank,
            id=t.variant.id,
            swaps=t.describe(),
            map50_95=t.map,
            map50=row.map50,
            delta_map50_95=row.delta_map,
            interval_low=ends[0],
            interval_high=ends[1],
            verdict=row.verdict,
            seeds=row.seeds,
            gflops=t.gflops,
            delta_gflops_percent=None if row.delta_gflops is None else 100 * row.delta_gflops,
            params=t.params,
            latency_ms=t.latency_ms,
            map50_95_per_gflop=t.map_per_gflop,
            on_front=row.on_front,
            below_floor=row.below_floor,
        )


class StudyResult:
    """The result of a study, read anew at each call: a search may be adding to it meanwhile.

    Attributes:
        study: The study itself, for what is not here.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def __repr__(self) -> str:
        return f"<{self.study.shown}>"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.location.name

    def ranking(self, rung: int | None = None) -> list[RankedVariant]:
        """Return the finished variants, best first; with `rung`, those of the K-th rung, counted from the cheapest.

        Raises:
            StudyError: The study is damaged, or has no such rung.
        """
        return [RankedVariant.of(row) for row in ranking_of(self.study, self.study.fidelity_of(rung))]

    def best(self) -> RankedVariant:
        """Return the variant that the study recommends, which is confirmed by several seeds where any are.

        Raises:
            StudyError: No variant has finished.
        """
        rows = ranking_of(self.study)
        if not rows:
            raise StudyError(f"no variant of {self.study.shown} has finished yet")
        return RankedVariant.of(find_winner(self.study, rows))

    def answer(self) -> str:
        """Return the answer of the study in a few sentences."""
        from nas.report.ranking_notes import conclusion

        return conclusion(self.study)[0]

    def effects(self) -> Effects:
        """Return the effects of each swap, module and slot on mAP and GFLOPs.

        Raises:
            StudyError: No variant other than the baseline has finished.
        """
        from nas.ranking.effects import estimate_effects

        s = self.study.settings
        return estimate_effects(self.study.trials(), s.space.active, s.error)

    def report(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        format: Literal["html", "md", "json", "png"] = "html",  # noqa: A002  as the option of the command
        force: bool = False,
        pictures: bool = True,
    ) -> tuple[Path, ...]:
        """Write the report, as `nas report` does, and return the files that it consists of.

        Args:
            path: The file; by default ``NAME-report`` with the format's ending in the current directory.
            format: ``html`` is one page that needs no network; ``png`` needs an installed Chromium.
            force: Whether a file that exists is replaced.
            pictures: Whether the baseline and the winner detect on validation images, where the study has weights of
                both; for ``html`` and ``png`` only.

        Raises:
            OutputError: A file exists, or cannot be written.
            StudyError: The study is damaged.
        """
        from nas.html.forms import DRAWN, FORMS, write_report
        from nas.html.source import read_source

        if format not in FORMS:
            raise OptionError(f"format is {shown(format)}, expected one of {', '.join(FORMS)}")
        source = read_source(self.study, pictures=pictures and format in DRAWN)
        return write_report([source], None if path is None else Path(path), format, force=force)


def load_study(name: str, storage: str | None = None) -> StudyResult:
    """Return a stored study.

    Args:
        name: Its name.
        storage: ``sqlite:///PATH`` or ``postgresql://…``; None is ``studies/<name>.db`` below the current directory.

    Raises:
        StudyError: It does not exist, or is of another tool or version.
        StorageError: Its storage cannot be used.
    """
    return StudyResult(Study.load(locate(name, storage)))


def search(space: str | os.PathLike[str] | None = None, *, progress: bool = True, **options: Any) -> StudyResult:
    """Search a space by training, as `nas search` does, and return its study; an existing one is resumed.

    Args:
        space: A file, or the name of a space that ships; None is the demo, or the space of an existing study.
        progress: Whether progress is printed on standard error.
        **options: As the options of `nas search`, with underscores: ``study="blood"``, ``data="data.yaml"``,
            ``trials=40``, ``confirm="3:3"``, ``precision="bf16"``, ``replay="table.json"``. `docs/python.md` has
            examples, `docs/commands.md` all options.

    Raises:
        OptionError: An option does not exist, or cannot be used.
        NasError: Anything about the space, the dataset or the storage is wrong, or the study has other settings.
    """
    chosen = options_of({"space": None if space is None else os.fspath(space), **options})
    study = replayed(chosen, progress=progress) if chosen.replay else searched(set_offline(), chosen, progress=progress)
    return StudyResult(study)


def options_of(given: Mapping[str, Any]) -> SearchOptions:
    """Return the options of a search from what a user gave by name.

    Raises:
        OptionError: One does not exist, or cannot be read.
    """
    from nas.ops.registry import did_you_mean
    from nas.session.options import SearchOptions
    from nas.study.budget import Confirm

    values = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in given.items() if v is not None}
    if "precision" in values:
        precision = values.pop("precision")
        if precision not in ("fp32", "bf16"):
            raise OptionError(f"precision is {shown(precision)}, expected fp32 or bf16")
        values["amp"] = False if precision == "fp32" else precision
    known = [f.name for f in fields(SearchOptions)]
    for name in values:
        if name not in known:
            raise OptionError(f"nas.search has no option {shown(name)}{did_you_mean(name, dict.fromkeys(known))}")
    confirm = values.get("confirm")
    if confirm is not None and not isinstance(confirm, str | Confirm):
        confirm = str(confirm)  # 0 is meant as "0"
    if isinstance(confirm, str):
        top, _, seeds = confirm.partition(":")
        if confirm == "0":
            values["confirm"] = Confirm()
        elif top.isdecimal() and seeds.isdecimal() and int(top) and int(seeds) > 1:
            values["confirm"] = Confirm(int(top), int(seeds))
        else:
            raise OptionError(f"confirm is {shown(confirm)}, expected 'TOP:K' with K of at least 2, or '0'")
    if isinstance(values.get("enable"), str):
        values["enable"] = (values["enable"],)
    elif "enable" in values:
        slots = values["enable"]
        if not isinstance(slots, list | tuple) or not all(isinstance(slot, str) for slot in slots):
            raise OptionError(f"enable is {shown(slots)}, expected the name of a slot, or a list of names")
        values["enable"] = tuple(slots)
    for f in fields(SearchOptions):
        _check_value(f.name, str(f.type), values.get(f.name))
    return SearchOptions(**values)


_KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_FROM_ZERO = ("epochs", "base_epochs", "seed", "floor", "min_map")
"""Options that may be 0."""


def _check_value(name: str, kind: str, value: Any) -> None:
    """Raise OptionError for a value of an option that is of another type than its field, or below what makes sense."""
    known = [part for part in kind.split(" | ") if part in _KINDS]
    if value is None or not known:
        return
    fits = any(isinstance(value, _KINDS[part]) and (part == "bool" or not isinstance(value, bool)) for part in known)
    if not fits:
        raise OptionError(f"{name} is {shown(value)}, expected {' or '.join(_WORDS[part] for part in known)}")
    if "str" not in known and "bool" not in known:
        least = "0 or more" if name in _FROM_ZERO else "more than 0"
        if not (value >= 0 if name in _FROM_ZERO else value > 0):
            raise OptionError(f"{name} is {shown(value)}, expected {least}")


_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "True or False"}


def searched(cache: Path, options: SearchOptions, *, progress: bool = True) -> Study:
    """Search by training, and return the study; call `nas.model.offline.set_offline` first.

    Raises:
        NasError: As `search`.
    """
    from nas.workers.process import ProxyWorker, trainers_of

    with ProxyWorker(cache) as first:
        first.start()  # it imports while this process does
        from nas.report.console import make_console
        from nas.report.progress import Progress
        from nas.session.search import Session
        from nas.session.settings import auto_workers

        session = Session.open(cache, options, first)
        workers = options.workers or auto_workers(session.study.settings)
        with (
            trainers_of(cache, workers, first) as trainers,
            session.study.locked(),
            Progress(make_console(stderr=True, quiet=not progress), session.study) as shown_progress,
        ):
            if hint := live_view(session.study.location):
                shown_progress.note(hint)
            session.run(shown_progress, trainers)
            store_verdicts(session.study, verdicts_of(session.study))
    return session.study


def live_view(where: StudyLocation) -> str:
    """Return how to look at a study while it runs; empty where optuna-dashboard is not installed."""
    if find_spec("optuna_dashboard") is None:
        return ""
    return f"live view: optuna-dashboard {shlex.quote(where.shown if where.server else where.url)}"


def verdicts_of(study: Study) -> dict[str, str]:
    """Return the verdicts of a study in words, by the swaps of the variants with several seeds, the best first."""
    found = {}
    for row in ranking_of(study):
        if row.delta_map is not None and row.seeds >= LEAST_SEEDS and not row.trial.variant.is_baseline:
            reach = f" ±{(row.interval[1] - row.interval[0]) / 2:.4f}" if row.interval else ""
            found[row.trial.describe()] = f"{row.verdict}, {row.delta_map:+.4f}{reach} mAP50-95"
    return found


def replayed(options: SearchOptions, *, progress: bool = True) -> Study:
    """Search a table of what was measured, and return the study.

    Raises:
        NasError: The table or an option cannot be used.
    """
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.session.replay import ReplaySession

    session = ReplaySession.open(options)
    console = make_console(stderr=True, quiet=not progress)
    with session.study.locked(), Progress(console, session.study) as shown_progress:
        session.run(shown_progress)
    return session.study
