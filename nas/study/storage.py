"""A storage of studies, opened and looked at, and what can be wrong with it.

SQLite, PostgreSQL and Optuna say what went wrong in their own words, and Optuna puts its tables into any database that
it is shown. Here the storage is looked at first, and every failure becomes one clear message.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from nas.errors import NasError, StorageError, StudyError, Unreachable
from nas.study.location import StudyLocation

_LOCK_WAIT_S = 60
_CHECK_WAIT_S = 5
PATIENCE_S = 600.0
"""How long a worker waits for a server that does not answer before it gives up."""
_SERVER_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # What a machine that is gone holds has to come free, the turn to claim above all.
    "options": "-c idle_in_transaction_session_timeout=90s -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 "
    "-c tcp_keepalives_count=3",
}
_OF_OPTUNA = {"studies", "trials", "version_info"}


def open_storage(where: StudyLocation) -> optuna.storages.RDBStorage:
    """Return Optuna's storage: patient, and with a write-ahead log where it is a file."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if where.server:
        return optuna.storages.RDBStorage(
            where.url, engine_kwargs={"connect_args": dict(_SERVER_OPTIONS), "pool_pre_ping": True}
        )
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(where.file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(where.url, engine_kwargs={"connect_args": {"timeout": _LOCK_WAIT_S}})


def server_engine(where: StudyLocation) -> sqlalchemy.Engine:
    """Return an engine of a server that keeps no connection open."""
    return sqlalchemy.create_engine(where.url, poolclass=sqlalchemy.NullPool, connect_args=dict(_SERVER_OPTIONS))


def check(where: StudyLocation, *, write: bool) -> bool:
    """Look at a storage before Optuna does, which would put its tables into any database.

    Returns:
        Whether it holds studies.

    Raises:
        StorageError: It is a database of something else.
        sqlite3.Error, SQLAlchemyError: It cannot be opened, or `write` and it is locked or cannot be written; see
            `translate_errors`.
    """
    return _check_server(where, write) if where.server else _check_file(where.file, write)


def _check_file(file: Path, write: bool) -> bool:
    if not file.exists() or file.stat().st_size == 0:
        return False
    with contextlib.closing(
        sqlite3.connect(f"{file.resolve().as_uri()}?mode={'rw' if write else 'ro'}", uri=True, timeout=_CHECK_WAIT_S)
    ) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if tables and not tables >= _OF_OPTUNA:
            raise StorageError(f"{file} is an SQLite database of something else (tables: {_few(tables)})")
        if write:
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
    return bool(tables)


def _check_server(where: StudyLocation, write: bool) -> bool:
    with server_engine(where).connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        if tables and not tables >= _OF_OPTUNA:
            raise StorageError(
                f"{where.shown} is a database of something else (tables: {_few(tables)}); make one for studies: "
                "createdb NAME"
            )
        allowed = "SELECT has_table_privilege('trials', 'INSERT')"
        if write and tables and not connection.execute(sqlalchemy.text(allowed)).scalar():
            raise StorageError(f"{where.shown}: this user may read studies there, but not write them")
    return bool(tables)


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5])


T = TypeVar("T")


SHORT_TIMEOUT_S = 10.0
_SHORTENED = threading.Event()


def shorten_timeouts() -> None:
    """Wait no longer than `SHORT_TIMEOUT_S` for any server from here on: this process is to end."""
    _SHORTENED.set()


def with_retry(where: StudyLocation, action: Callable[[], T]) -> T:
    """Return what an action on a storage gives, trying again while its server cannot be reached.

    Args:
        where: The storage. A file is tried once: SQLite itself waits for its lock.
        action: What to do; it has to stand being done twice.

    Raises:
        Exception: What the action raises, after `PATIENCE_S` of a server that does not answer.
    """
    until, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return action()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if _SHORTENED.is_set():
                until = min(until, time.monotonic() + SHORT_TIMEOUT_S)
            if not (where.server and is_disconnected(error)) or time.monotonic() > until:
                raise
            if _SHORTENED.wait(pause):
                time.sleep(0.5)
                until = min(until, time.monotonic() + SHORT_TIMEOUT_S)
            pause = min(2 * pause, 15.0)


def is_disconnected(error: BaseException) -> bool:
    """Whether a failure is one of the way to a server, or of the server's own going down, and may pass."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    code = getattr(cause.orig, "sqlstate", None)
    if code is None:  # the server has said nothing: it could not be reached, or went away
        refused = any(words in str(cause) for words in _REFUSALS)
        lost = isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
        return bool(cause.connection_invalidated) or (lost and not refused)
    return code[:2] == "08" or code in _GOING_DOWN


_GOING_DOWN = ("57P01", "57P02", "57P03", "53300", "25P03")
"""Shutdown, crash of another connection, start-up, too many connections, and a transaction that stood still."""
_REFUSALS = ("authentication failed", "no password supplied", "does not exist")


@contextlib.contextmanager
def translate_errors(where: StudyLocation) -> Iterator[None]:
    """Turn what SQLite, PostgreSQL, SQLAlchemy and Optuna raise into one clear message."""
    try:
        yield
    except NasError:  # said already; some are OSError or RuntimeError too
        raise
    except ImportError as error:
        if where.server and "psycopg" in str(error.__cause__ or error):
            raise StorageError("PostgreSQL needs its driver: pip install 'swapnas[postgres]'") from None
        raise
    except (
        sqlite3.Error,
        SQLAlchemyError,
        OSError,
        optuna.exceptions.StorageInternalError,
        RuntimeError,
    ) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        of_optuna = isinstance(error, optuna.exceptions.OptunaError) or _is_of_another_version(text)
        if isinstance(error, RuntimeError) and not of_optuna:
            raise
        kind = Unreachable if where.server and is_disconnected(error) else StorageError
        raise kind(_explanation(where, error, text)) from None
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyError(f"{where.shown} holds a study {where.name!r} already") from None


def _is_of_another_version(text: str) -> bool:
    return "runtime optuna version" in text.lower() or "schema version" in text.lower()


def _explanation(where: StudyLocation, error: Exception, text: str) -> str:
    """Say what is wrong with a storage."""
    if _is_of_another_version(text):
        return f"{where.shown} was made by another version of Optuna ({optuna.__version__} runs): {text}"
    if "disk is full" in text or "No space left" in text:
        return f"{where.shown}: the disk is full; what was finished before is stored"
    if where.server:
        return _explanation_of_server(where, text)
    if "not a database" in text:
        return f"{where.file} is no SQLite file"
    if "locked" in text:
        return f"{where.file} is locked by another program; close it and try again"
    if "readonly" in text or "read-only" in text.lower() or isinstance(error, PermissionError):
        return f"{where.file} cannot be written: it, or its folder, is read-only"
    if "unable to open" in text or isinstance(error, OSError):
        return f"cannot open {where.file}: {text.splitlines()[0]}"
    return f"{where.file}: {text.splitlines()[0]}"


def _explanation_of_server(where: StudyLocation, text: str) -> str:
    said = text.splitlines()[0].removeprefix("(psycopg.OperationalError) ")
    database = where.shown.rsplit("/", 1)[-1]
    if "authentication failed" in text or "no password supplied" in text or ("role" in text and "not exist" in text):
        return f"{where.shown} refuses this user or password: {said}"
    if f'database "{database}" does not exist' in text:
        return f"{where.shown}: the server has no database {database!r}; make it: createdb {database}"
    if "permission denied" in text:
        return f"{where.shown}: this user lacks a right that studies need (to create tables, and to write them): {said}"
    if "connect" in text.lower() or "resolve" in text or "timeout" in text.lower():
        return f"cannot reach {where.shown}: {said}"
    return f"{where.shown}: {said}"
