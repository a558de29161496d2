"""Where a study lives: a file of SQLite, or a PostgreSQL server that several machines share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import StorageError, StudyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILE_PREFIX = "sqlite:///"
_SERVER = re.compile(r"postgres(ql)?(\+\w+)?://")
_DRIVER = "postgresql+psycopg"
EXPECTED = "expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


@dataclass(frozen=True)
class StudyLocation:
    """Where a study lives: its name, and the SQLite file or the server that holds it.

    Attributes:
        name: Of the study.
        file: The SQLite file; of a study on a server, the place that files beside it are named by.
        server: URL of the server, with its driver; empty for a file.
    """

    name: str
    file: Path
    server: str = ""

    @property
    def url(self) -> str:
        """The storage as Optuna writes it."""
        return self.server or f"{_FILE_PREFIX}{self.file}"

    @property
    def shown(self) -> str:
        """The storage for a person: a path, or a server without a password."""
        return str(_parsed(self.server).set(drivername="postgresql")) if self.server else str(self.file)

    @property
    def folder(self) -> Path:
        """Where files of the study go that do not belong in a database."""
        if self.server:
            return self.file.with_suffix(".server")
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
        return not self.server and self.file.resolve() == default_file(self.name).resolve()

    @property
    def workers(self) -> Path:
        """Where the locks of workers on this machine lie; the same however the file's path is written."""
        file = self.file.resolve()
        return file.with_name(f"{file.name}.{self.name}.workers")

    def named(self, name: str) -> StudyLocation:
        """Return the place of another study of the same storage."""
        return StudyLocation(name, default_file(name) if self.server else self.file, self.server)


def default_file(name: str) -> Path:
    """Return where a study lives unless `--storage` says otherwise."""
    return Path("studies") / f"{name}.db"


def locate(name: str, storage: str | None = None) -> StudyLocation:
    """Return where a study lives.

    Args:
        name: Name of the study.
        storage: ``sqlite:///PATH`` or ``postgresql://…``; None is ``studies/<name>.db`` below the current directory.

    Raises:
        StudyError: No study can have that name.
        StorageError: The storage is no URL that can be used.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(
            f"a study cannot be called {name!r}: letters, digits, dots, dashes and underscores, at most 64"
        )
    if storage is None:
        return StudyLocation(name, default_file(name))
    if _SERVER.match(storage):
        url = _parsed(storage)
        if not url.database:
            raise StorageError(f"the storage {str(url)!r} names no database: {EXPECTED}")
        return StudyLocation(
            name, default_file(name), url.set(drivername=_DRIVER).render_as_string(hide_password=False)
        )
    if not storage.startswith(_FILE_PREFIX) or not storage[len(_FILE_PREFIX) :]:
        raise StorageError(f"cannot use the storage {storage!r}: {EXPECTED}")
    return StudyLocation(name, Path(storage[len(_FILE_PREFIX) :]))


def _parsed(url: str) -> Any:
    """Return a URL in its parts.

    Raises:
        StorageError: It is none.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # without the URL: it may hold a password
        raise StorageError(f"cannot read the storage's URL: {EXPECTED}") from None
