"""The private parts of Optuna that studies need, in one place.

`Tables` reads a storage without Optuna, whose import and opening take longer than what a command reads. Publicly Optuna
neither creates a trial that is running from its first moment, in one transaction, nor opens, reads or
marks a trial by its ID, as one worker has to do with the trials of another. Checked with the releases `CHECKED`;
`tests/nas/study/test_optuna_private.py` says which of these parts a new release has changed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from nas.study.location import StudyLocation

if TYPE_CHECKING:
    import optuna
    import sqlalchemy
    from optuna.trial import FrozenTrial

CHECKED = ("5.0.0",)
"""Releases of Optuna that these functions were checked with."""


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the storage's ID of a trial; its number counts within one study only."""
    return trial._trial_id


def add_trial(study: optuna.Study, template: FrozenTrial) -> int:
    """Add a trial with the state, parameters and attributes of a template in one transaction, and return its ID."""
    return study._storage.create_new_trial(study._study_id, template_trial=template)


def open_trial(study: optuna.Study, trial: int) -> optuna.Trial:
    """Return the handle of a running trial by its ID."""
    import optuna

    return optuna.Trial(study, trial)


def read_trial(study: optuna.Study, trial: int) -> FrozenTrial:
    """Return what is stored of a trial by its ID."""
    return study._storage.get_trial(trial)


def set_trial_attribute(study: optuna.Study, trial: int, key: str, value: Any) -> None:
    """Store a user attribute of a trial by its ID."""
    study._storage.set_trial_user_attr(trial, key, value)


SCHEMA = "v3.2.0.a"
"""The version of Optuna's tables that `Tables` reads."""
_WAIT_S = 60
_AT_ONCE = 500
"""Number of trials of one query: SQLite and PostgreSQL limit the number of its parameters."""
_Query: TypeAlias = Callable[..., list[tuple[Any, ...]]]


@dataclass(frozen=True)
class StoredTrial:
    """A row of a trial, without its attributes.

    Attributes:
        id: The storage's ID.
        number: Number within the study.
        state: Name of its `optuna.trial.TrialState`.
    """

    id: int
    number: int
    state: str


class Tables:
    """The studies of a storage, read from Optuna's tables; `nas.study.storage.check_storage` says that it has some.

    Every method can raise what `nas.study.storage.translate_errors` translates.
    """

    def __init__(self, where: StudyLocation) -> None:
        self.where = where

    @functools.cached_property
    def _engine(self) -> sqlalchemy.Engine:
        """The server's connections, of which those in use are kept."""
        from nas.study.storage import server_engine

        return server_engine(self.where, pooled=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[_Query]:
        if self.where.server:
            import sqlalchemy

            with self._engine.connect() as server:
                yield lambda sql, **values: [tuple(row) for row in server.execute(sqlalchemy.text(sql), values)]
            return
        url = f"{self.where.file.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(url, uri=True, timeout=_WAIT_S, isolation_level=None)) as file:
            file.execute("BEGIN")  # all that is read in one go is of one moment
            yield lambda sql, **values: file.execute(sql, values).fetchall()

    @property
    def schema(self) -> str:
        """The version of the tables."""
        with self._reading() as query:
            found = query("SELECT version_num FROM alembic_version")
        return str(found[0][0]) if found else ""

    def names(self) -> list[str]:
        """Return the names of all studies, in the order in which they were created."""
        with self._reading() as query:
            return [str(name) for (name,) in query("SELECT study_name FROM studies ORDER BY study_id")]

    def attributes(self) -> dict[str, Any] | None:
        """Return the user attributes of the study; None if there is no such study."""
        with self._reading() as query:
            sql = "SELECT s.study_id, d.direction FROM studies s JOIN study_directions d ON d.study_id = s.study_id"
            found = query(f"{sql} WHERE s.study_name = :name", name=self.where.name)
            if not found:
                return None
            _check("direction", found[0][1], _DIRECTIONS)
            sql = "SELECT key, value_json FROM study_user_attributes WHERE study_id = :study"
            return {key: json.loads(text) for key, text in query(sql, study=found[0][0])}

    def trials(self) -> list[StoredTrial]:
        """Return all trials, by number."""
        sql = (
            "SELECT t.trial_id, t.number, t.state FROM trials t JOIN studies s ON s.study_id = t.study_id "
            "WHERE s.study_name = :name ORDER BY t.number"
        )
        with self._reading() as query:
            found = [StoredTrial(*row) for row in query(sql, name=self.where.name)]
        for trial in found:
            _check("state", trial.state, _STATES)
        return found

    def parts(self, trials: Sequence[int], key: str) -> dict[int, tuple[dict[str, Any], Any]]:
        """Return parameters and one user attribute of trials by their IDs; those that lack it are left out."""
        params: dict[int, dict[str, Any]] = {trial: {} for trial in trials}
        found: dict[int, tuple[dict[str, Any], Any]] = {}
        choices = _Choices()
        with self._reading() as query:
            for start in range(0, len(trials), _AT_ONCE):
                ids = {f"i{k}": trial for k, trial in enumerate(trials[start : start + _AT_ONCE])}
                among = f"trial_id IN ({', '.join(f':{name}' for name in ids)})"
                sql = "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
                for trial, name, value, kind in query(f"{sql} WHERE {among} ORDER BY param_id", **ids):
                    params[trial][name] = choices[kind][int(value)]
                sql = "SELECT trial_id, value_json FROM trial_user_attributes"
                for trial, text in query(f"{sql} WHERE {among} AND key = :key", **ids, key=key):
                    found[trial] = params[trial], json.loads(text)
        return found

    def plain(self, keys: Sequence[str]) -> list[tuple[StoredTrial, float | None, dict[str, Any]]]:
        """Return all trials with their value and the plain user attributes of these names, by number."""
        found: dict[int, dict[str, Any]] = {}
        of_study = "p JOIN trials t ON t.trial_id = p.trial_id JOIN studies s ON s.study_id = t.study_id"
        of_study += " WHERE s.study_name = :name"
        names = {f"k{i}": key for i, key in enumerate(keys)}
        among = f"p.key IN ({', '.join(f':{name}' for name in names)})"
        trials = self.trials()
        with self._reading() as query:
            sql = f"SELECT p.trial_id, p.value FROM trial_values {of_study}"
            values = dict(query(sql, name=self.where.name))
            sql = f"SELECT p.trial_id, p.key, p.value_json FROM trial_user_attributes {of_study} AND {among}"
            for trial, key, text in query(sql, name=self.where.name, **names):
                found.setdefault(trial, {})[key] = json.loads(text)
        return [(trial, values.get(trial.id), found.get(trial.id, {})) for trial in trials]


_DIRECTIONS = frozenset({"MAXIMIZE", "MINIMIZE", "NOT_SET"})
_STATES = frozenset({"RUNNING", "WAITING", "COMPLETE", "PRUNED", "FAIL"})


def _check(what: str, value: object, known: frozenset[str]) -> None:
    """Raise ValueError for a value that Optuna never stores."""
    if value not in known:
        raise ValueError(f"the {what} {value!r} is not one of {', '.join(sorted(known))}")


def read_tables(where: StudyLocation) -> Tables:
    """Return the tables of a storage that has Optuna's; those of another version are opened by Optuna first.

    Raises:
        RuntimeError: By Optuna, if it cannot use that version.
    """
    tables = Tables(where)
    if tables.schema != SCHEMA:
        from nas.study.storage import open_storage

        open_storage(where)
    return tables


class _Choices(dict[str, "list[Any]"]):
    """The choices of categorical distributions by their JSON, each of which is parsed once."""

    def __missing__(self, text: str) -> list[Any]:
        self[text] = found = list(json.loads(text)["attributes"]["choices"])
        return found
