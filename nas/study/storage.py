"""Open and check the storage of studies; retry lost connections and translate errors.

Optuna creates its tables in any database that it is given, so a storage is checked before Optuna opens it. Each error
of SQLite, PostgreSQL, SQLAlchemy and Optuna becomes one clear message.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import NasError, SpaceError, StorageError, StudyError, Unreachable, escaped, full_disk, one_line, shown
from nas.study.location import StudyLocation

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

_LOCK_WAIT_S = 60
_CHECK_WAIT_S = 5
PATIENCE_S = 600.0
"""Seconds for which a worker retries while the server does not answer."""
_SERVER_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # The server has to release what a dead machine holds, the claim lock above all.
    "options": "-c idle_in_transaction_session_timeout=90s -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 "
    "-c tcp_keepalives_count=3",
}
_OF_OPTUNA = {"studies", "trials", "version_info"}


def open_storage(where: StudyLocation) -> optuna.storages.RDBStorage:
    """Open the storage in Optuna, with long lock timeouts and, for a file, a write-ahead log."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if where.server:
        return optuna.storages.RDBStorage(
            where.url, engine_kwargs={"connect_args": dict(_SERVER_OPTIONS), "pool_pre_ping": True}
        )
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(where.file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(where.url, engine_kwargs={"connect_args": {"timeout": _LOCK_WAIT_S}})


def server_engine(where: StudyLocation, *, pooled: bool = False) -> sqlalchemy.Engine:
    """Return an SQLAlchemy engine for the server; without `pooled` it keeps no connections."""
    import sqlalchemy

    options: dict[str, Any] = {"pool_pre_ping": True} if pooled else {"poolclass": sqlalchemy.NullPool}
    return sqlalchemy.create_engine(where.url, connect_args=dict(_SERVER_OPTIONS), **options)


def check_storage(where: StudyLocation, *, write: bool) -> bool:
    """Check a storage before Optuna opens it, which would create its tables in any database.

    Returns:
        Whether it has Optuna's tables.

    Raises:
        StorageError: It is a database of another application.
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
            raise StorageError(f"{file} is an SQLite database of another application (tables: {_few(tables)})")
        if write:
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
    return bool(tables)


def _check_server(where: StudyLocation, write: bool) -> bool:
    import sqlalchemy

    with server_engine(where).connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        if tables and not tables >= _OF_OPTUNA:
            raise StorageError(
                f"{where.shown} is a database of another application (tables: {_few(tables)}); create one for studies: "
                "createdb NAME"
            )
        allowed = "SELECT has_table_privilege('trials', 'INSERT')"
        if write and tables and not connection.execute(sqlalchemy.text(allowed)).scalar():
            raise StorageError(f"{where.shown}: this user may read studies there, but not write them")
    return bool(tables)


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5])


_T = TypeVar("_T")


SHORT_TIMEOUT_S = 10.0
_SHORTENED = threading.Event()


def shorten_timeouts() -> None:
    """Shorten all timeouts to `SHORT_TIMEOUT_S` from now on, because this process is about to end."""
    _SHORTENED.set()


def with_retry(where: StudyLocation, action: Callable[[], _T]) -> _T:
    """Run an action on a storage and return its result; retry with backoff while the server cannot be reached.

    Args:
        where: The storage. On a file the action runs once: SQLite itself waits for its lock.
        action: An idempotent action.

    Raises:
        Exception: What the action raises; for a lost connection after `PATIENCE_S`.
    """
    until, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return action()
        except (*_of("sqlalchemy.exc", "SQLAlchemyError"), *_of("optuna.exceptions", "StorageInternalError")) as error:
            if _SHORTENED.is_set():
                until = min(until, time.monotonic() + SHORT_TIMEOUT_S)
            if not (where.server and is_disconnected(error)) or time.monotonic() > until:
                raise
            if _SHORTENED.wait(pause):
                time.sleep(0.5)
                until = min(until, time.monotonic() + SHORT_TIMEOUT_S)
            pause = min(2 * pause, 15.0)


def is_disconnected(error: BaseException) -> bool:
    """Return whether an error is temporary: the connection failed or was lost, or the server is shutting down."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    cause = error if isinstance(error, DBAPIError) else error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    code = getattr(cause.orig, "sqlstate", None)
    if code is None:  # there is no answer of the server: it could not be reached, or the connection was lost
        refused = any(words in str(cause) for words in _REFUSALS)
        lost = isinstance(cause, OperationalError | InterfaceError)
        return bool(cause.connection_invalidated) or (lost and not refused)
    return code[:2] == "08" or code in _GOING_DOWN


def _of(module: str, name: str) -> tuple[type[Exception], ...]:
    """Return a class of errors; nothing if its module was not imported, which then cannot have raised one."""
    found = sys.modules.get(module)
    return (getattr(found, name),) if found else ()


def _errors() -> tuple[type[Exception], ...]:
    """Return what a storage can raise."""
    others = _of("sqlalchemy.exc", "SQLAlchemyError") + _of("optuna.exceptions", "StorageInternalError")
    return (sqlite3.Error, OSError, RuntimeError, *others)


_GOING_DOWN = ("57P01", "57P02", "57P03", "53300", "25P03")
"""SQLSTATEs of shutdown, crash, start-up, too many connections, and an idle transaction."""
_REFUSALS = ("authentication failed", "no password supplied", "does not exist")


@contextlib.contextmanager
def translate_errors(where: StudyLocation) -> Iterator[None]:
    """Translate the errors of SQLite, PostgreSQL, SQLAlchemy and Optuna into a `StorageError` with a clear message."""
    try:
        yield
    except NasError:  # clear already; some are an OSError or RuntimeError too
        raise
    except ImportError as error:
        if where.server and "psycopg" in str(error.__cause__ or error):
            raise StorageError("PostgreSQL needs its driver: pip install 'swapnas[postgres]'") from None
        raise
    except _errors() as error:
        text = str(error.__cause__ or error) or type(error).__name__
        of_optuna = isinstance(error, _of("optuna.exceptions", "OptunaError")) or _is_of_another_version(text)
        if isinstance(error, RuntimeError) and not of_optuna:
            raise
        kind = Unreachable if where.server and is_disconnected(error) else StorageError
        raise kind(_explanation(where, error, text)) from None
    except _of("optuna.exceptions", "DuplicatedStudyError"):
        raise StudyError(f"{where.shown} holds a study {where.name!r} already") from None


_OF_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, AssertionError,
)  # fmt: skip


@contextlib.contextmanager
def translate_damage(where: StudyLocation) -> Iterator[None]:
    """Translate what reading a damaged study raises into a `StudyError`, which says that it is damaged."""
    try:
        yield
    except SpaceError as error:  # of a text that is no name of a layer, scale or module
        raise StudyError(f"the study {shown(where.name)} of {where.shown} is damaged: {error}") from None
    except NasError:
        raise
    except _OF_DAMAGE as error:
        raise StudyError(f"the study {shown(where.name)} of {where.shown} is damaged: {shortened(error)}") from None


def shortened(error: BaseException) -> str:
    """Return an error as one short line."""
    text = one_line(error)
    return escaped(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


_LONGEST = 200


def _is_of_another_version(text: str) -> bool:
    return "runtime optuna version" in text.lower() or "schema version" in text.lower()


_FULL = {
    "disk is full": "the disk is full",
    "No space left": "the disk is full",
    "quota exceeded": "the disk quota is used up",
    # SQLite says no more where a quota or a limit of the size of files (ulimit -f) is reached.
    "disk I/O error": "the disk cannot be written; is it full, or a quota or limit of the size of a file reached?",
}
"""What the errors of storages say when there is no room, and the message."""


def _explanation(where: StudyLocation, error: Exception, text: str) -> str:
    """Return a message for an error of a storage."""
    if _is_of_another_version(text):
        runs = metadata.version("optuna")
        return f"{where.shown} was made by another version of Optuna ({runs} runs): {text}"
    if full := full_disk(error) or next((why for sign, why in _FULL.items() if sign in text), ""):
        return f"{where.shown}: {full}; what was finished before is stored"
    if where.server:
        return _explanation_of_server(where, text)
    if "not a database" in text:
        return f"{where.file} is not an SQLite file"
    if "locked" in text:
        return (
            f"{where.file} is locked by another program; close it and try again (a worker that is stopped while it "
            "writes holds the lock: kill -CONT continues it)"
        )
    if "readonly" in text or "read-only" in text.lower() or isinstance(error, PermissionError):
        return f"{where.file} cannot be written: it, or its folder, is read-only"
    if "unable to open" in text or isinstance(error, OSError):
        return f"cannot open {where.file}: {text.splitlines()[0]}"
    return f"{where.file}: {text.splitlines()[0]}"


def _explanation_of_server(where: StudyLocation, text: str) -> str:
    text = where.without_secrets(text)
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
