"""Where a study lives, and what can be wrong with that place.

SQLite and Optuna say what went wrong in their own words, and Optuna puts its tables into any database that it is shown.
Here the file is looked at first, and every failure becomes one clear message.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import StudyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOCK_WAIT_S = 60
_CHECK_WAIT_S = 5


@dataclass(frozen=True)
class StudyPlace:
    """Where a study lives: its name, and the SQLite file that holds it."""

    name: str
    file: Path

    @property
    def url(self) -> str:
        """The storage as Optuna writes it."""
        return f"sqlite:///{self.file}"

    @property
    def folder(self) -> Path:
        """Where files of the study go that do not belong in a database."""
        if self.is_default:
            return self.file.with_suffix("")
        return self.file.with_name(f"{self.file.name}.d") / self.name

    @property
    def weights(self) -> Path:
        """Where trained tensors lie that the studies beside this one share."""
        return self.file.parent / "weights"

    @property
    def is_default(self) -> bool:
        """Whether it is where a study of that name is looked for when nothing else is said."""
        return self.file == default_file(self.name)


def default_file(name: str) -> Path:
    """Return where a study lives unless `--storage` says otherwise."""
    return Path("studies") / f"{name}.db"


def place(name: str, storage: str | None = None) -> StudyPlace:
    """Return where a study lives.

    Args:
        name: Name of the study.
        storage: ``sqlite:///PATH``; None is ``studies/<name>.db`` below the current directory.

    Raises:
        StudyError: The name or the URL is none.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(
            f"a study cannot be called {name!r}: letters, digits, dots, dashes and underscores, at most 64"
        )
    if storage is None:
        return StudyPlace(name, default_file(name))
    prefix = "sqlite:///"
    if not storage.startswith(prefix) or not storage[len(prefix) :]:
        raise StudyError(f"cannot use the storage {storage!r}: expected sqlite:///PATH")
    return StudyPlace(name, Path(storage[len(prefix) :]))


def open_storage(where: StudyPlace) -> optuna.storages.RDBStorage:
    """Return Optuna's storage: patient, with a write-ahead log."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(where.file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(where.url, engine_kwargs={"connect_args": {"timeout": _LOCK_WAIT_S}})


def check_file(file: Path, *, write: bool) -> bool:
    """Look at a storage before Optuna does, which would put its tables into any database.

    Returns:
        Whether it holds studies.

    Raises:
        StudyError: It is a database of something else, or `write` and it is locked or cannot be written.
    """
    if not file.exists() or file.stat().st_size == 0:
        return False
    with contextlib.closing(
        sqlite3.connect(f"{file.resolve().as_uri()}?mode={'rw' if write else 'ro'}", uri=True, timeout=_CHECK_WAIT_S)
    ) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if tables and not {"studies", "trials", "version_info"} <= tables:
            raise StudyError(
                f"{file} is an SQLite database of something else (tables: {', '.join(sorted(tables)[:5])})"
            )
        if write:
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
    return bool(tables)


@contextlib.contextmanager
def explained(where: StudyPlace) -> Iterator[None]:
    """Turn what SQLite, SQLAlchemy and Optuna raise into one clear message."""
    try:
        yield
    except StudyError:
        raise
    except (
        sqlite3.Error,
        SQLAlchemyError,
        OSError,
        optuna.exceptions.StorageInternalError,
        RuntimeError,
    ) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        if "not a database" in text:
            raise StudyError(f"{where.file} is no SQLite file") from None
        if "locked" in text:
            raise StudyError(f"{where.file} is locked by another program; close it and try again") from None
        if "readonly" in text or "read-only" in text.lower() or isinstance(error, PermissionError):
            raise StudyError(f"{where.file} cannot be written: it, or its folder, is read-only") from None
        if "disk is full" in text or "No space left" in text:
            raise StudyError(f"{where.file}: the disk is full; what was finished before is stored") from None
        if "unable to open" in text or isinstance(error, OSError):
            raise StudyError(f"cannot open {where.file}: {text.splitlines()[0]}") from None
        if "runtime optuna version" in text.lower() or "schema version" in text.lower():
            raise StudyError(
                f"{where.file} was made by another version of Optuna ({optuna.__version__} runs): {text}"
            ) from None
        if isinstance(error, RuntimeError) and not isinstance(error, optuna.exceptions.OptunaError):
            raise
        raise StudyError(f"{where.file}: {text.splitlines()[0]}") from None
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyError(f"{where.file} holds a study {where.name!r} already") from None


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, with the number of this process in it. The lock goes with the process, however that ends.

    Args:
        path: The lock file.
        what: What it stands for, for the message.

    Raises:
        StudyError: Another process holds it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # the `with` below closes it, and so lets go of the lock
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StudyError(f"another search works on {what} (process {holder}); let it end first")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def try_lock(file: Any) -> bool:
    """Take an exclusive lock on an open file, without waiting."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # far behind the content: a locked byte cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
