"""Tabular benchmarks: the results of a finished study in one file, so that a search can be replayed in seconds.

A table holds the space, the settings of the study, and a row for each training: the choice of every slot, the seed, the
scores and the costs. `nas.session.replay` searches one in place of training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import NasError, OutputError, ProxyFailure, StudyError, TableError, one_line, shown
from nas.files import dataclass_from_plain, from_plain, parse_json
from nas.model.cost import Cost
from nas.solver.facts import SwapFacts, facts_of_study
from nas.space.search_space import Assignment, SearchSpace, key_of
from nas.training.jobs import ProxyResult
from nas.training.scores import EpochScore, Validation

if TYPE_CHECKING:
    from nas.study.study import Study

TABLE_SCHEMA = 1


@dataclass(frozen=True)
class TableRow:
    """One training.

    Attributes:
        slots: Slot key to label.
        seed: Of the training.
        failure: The reason of a failure; empty without one.
        map: mAP50-95 by the study's score, and `map50` the final mAP50.
        scores: Every score of `nas.training.scores.SCORES`.
        gflops: As `nas.model.cost.Cost.gflops`; so are `stock_gflops` and `params`.
        latency_ms: As `nas.model.latency.Latency.ms`; None if it was not measured.
        epochs: Number of epochs.
        seconds: Wall time.
    """

    slots: Mapping[str, str]
    seed: int
    failure: str = ""
    map: float = 0.0
    map50: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    gflops: float = 0.0
    stock_gflops: float = 0.0
    params: int = 0
    latency_ms: float | None = None
    epochs: int = 0
    seconds: float = 0.0


class Table:
    """The rows of a study, with its space and settings.

    Attributes:
        space: The space that was searched.
        about: The study's settings as plain values (`nas.study.study.Settings`); empty for a table from elsewhere.
        facts: Output scores and costs of the single swaps; none where the study has not gathered them.
        rows: By variant and seed.
    """

    def __init__(
        self, space: SearchSpace, rows: Sequence[TableRow], about: Mapping[str, Any], facts: SwapFacts | None = None
    ) -> None:
        self.space, self.about, self.facts = space, dict(about), facts or SwapFacts()
        self.rows = {(key_of(row.slots), row.seed): row for row in rows}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the rows, sorted."""
        return tuple(sorted({seed for _, seed in self.rows}))

    def to_json(self) -> str:
        """Return the table as text with one row per line; `from_json` reads it."""
        head = {"schema": TABLE_SCHEMA, "space": json.loads(self.space.to_json()), "about": self.about}
        if self.facts.costs:
            head["facts"] = self.facts.to_plain()
        lines = ",\n".join(json.dumps(asdict(row)) for row in self.rows.values())
        return f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Return the table that `to_json` wrote.

        Raises:
            TableError: It is not a table, or not complete.
        """
        try:
            body = parse_json(text)
            if body["schema"] != TABLE_SCHEMA:
                raise TableError(f"it has schema {shown(body['schema'])}, this version reads {TABLE_SCHEMA}")
            space = SearchSpace.from_json(json.dumps(body["space"]))
            names = {f.name for f in fields(TableRow)}
            rows = [
                dataclass_from_plain(TableRow, {k: v for k, v in row.items() if k in names}, f"rows[{number}]")
                for number, row in enumerate(body["rows"])
            ]
            about = from_plain(Mapping[str, Any], body.get("about", {}), "about")
            facts = SwapFacts.from_plain(body.get("facts"))
        except NasError as error:  # a ValueError too
            raise TableError(str(error)) from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TableError(f"it is not a table of `nas studies export`: {one_line(error)}") from None
        for row in rows:
            _check(space, row)
        return cls(space, rows, about, facts)


def _check(space: SearchSpace, row: TableRow) -> None:
    """Check that a row fits its space.

    Raises:
        TableError: It does not.
    """
    slots = {slot.key: slot.choices for slot in space.active}
    if row.slots.keys() != slots.keys() or any(label not in slots[key] for key, label in row.slots.items()):
        raise TableError(f"a row does not fit the slots of its space: {shown(dict(row.slots))}")
    numbers = (row.map, row.map50, row.gflops, *row.scores.values())
    if not row.failure and not (all(map(math.isfinite, numbers)) and row.gflops > 0):
        raise TableError(
            f"a row has scores that are not finite, or GFLOPs that are not above 0: {shown(dict(row.slots))}"
        )


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        TableError: It cannot be read.
    """
    try:
        return Table.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot read the table {path}: {getattr(error, 'strerror', None) or error}") from None
    except TableError as error:
        raise TableError(f"cannot use the table {path}: {error}") from None


def write_table(table: Table, path: Path) -> int:
    """Write a table and return how many rows it has.

    Raises:
        OutputError: There is a file already, or it cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(table.to_json())
    except FileExistsError:
        raise OutputError(f"{path} exists; choose another -o, or remove it") from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return len(table.rows)


def export_table(study: Study) -> Table:
    """Return the results of a study as a table.

    Raises:
        StudyError: No trial has finished.
    """
    s = study.settings
    rows = [
        TableRow(
            slots=dict(t.assignment),
            seed=t.seed,
            map=t.map,
            map50=t.map50,
            scores=t.scores,
            gflops=t.gflops,
            stock_gflops=t.stock_gflops,
            params=t.params,
            latency_ms=t.latency_ms,
            epochs=t.curve[-1].epoch,
            seconds=t.seconds,
        )
        if t.status == "done"
        else TableRow(dict(t.assignment), t.seed, t.failure, seconds=t.seconds)
        for t in study.trials()
        if t.status in ("done", "failed")
    ]
    if not any(not row.failure for row in rows):
        raise StudyError(f"the study {study.location.name!r} has no finished trial: there is nothing to export yet")
    about = {k: v for k, v in json.loads(s.to_json()).items() if k not in ("space", "schema")}
    return Table(s.space, rows, {"study": study.location.name, **about}, facts_of_study(study))


class Replay:
    """Looks up the rows of one seed in place of training.

    Attributes:
        assignments: Those that have a row, in the order of the table.
    """

    def __init__(self, table: Table, seed: int) -> None:
        """Prepare.

        Raises:
            TableError: The baseline has no row for the seed.
        """
        self.table, self.seed, self.facts = table, seed, table.facts
        self.assignments = tuple(dict(key) for key, of in table.rows if of == seed)
        base = table.rows.get((key_of(table.space.baseline()), seed))
        if base is None or base.failure:
            seeds = ", ".join(map(str, table.seeds)) or "none"
            raise TableError(f"the table has no finished baseline for --seed {seed}; its seeds: {seeds}")

    def cost(self, assignment: Assignment) -> tuple[Cost, float | None]:
        """Return a variant's cost, and its latency if the table has one."""
        row = self._row(assignment)
        return Cost(row.params, row.gflops, row.stock_gflops), row.latency_ms

    def run(self, assignment: Assignment) -> ProxyResult:
        """Return the stored result of a training, with the seconds that it took.

        Raises:
            ProxyFailure: It failed.
        """
        row = self._row(assignment)
        if row.failure:
            raise ProxyFailure("build", f"in the table: {row.failure}")
        last = Validation(row.map50, row.map, -row.scores.get("val_loss", 0.0))
        curve = (EpochScore(row.epochs, -row.scores.get("train_loss", 0.0), row.seconds, last),)
        return ProxyResult(curve, None, (0, 0), cpu_seconds=0.0, seconds=row.seconds)

    def _row(self, assignment: Assignment) -> TableRow:
        return self.table.rows[key_of(assignment), self.seed]
