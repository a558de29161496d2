"""The location of a study: an SQLite file, or a PostgreSQL server that several machines share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nas.errors import StorageError, StudyError, shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILE_PREFIX = "sqlite:///"
_SERVER = re.compile(r"postgres(ql)?(\+\w+)?://")
_DRIVER = "postgresql+psycopg"
EXPECTED = "expected sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE (its password in PGPASSWORD or ~/.pgpass)"


@dataclass(frozen=True)
class StudyLocation:
    """The name of a study and the storage that holds it.

    Attributes:
        name: Name of the study.
        file: The SQLite file; for a study on a server, a local path from which those of its other files are derived.
        server: URL of the server, with its driver; empty for a file.
    """

    name: str
    file: Path
    server: str = ""

    @property
    def url(self) -> str:
        """The storage as a URL for Optuna."""
        return self.server or f"{_FILE_PREFIX}{self.file}"

    @property
    def shown(self) -> str:
        """The storage for messages: a path, or the URL of a server without its password."""
        if not self.server:
            return str(self.file)
        return str(_parsed(self.server).set(drivername="postgresql", query={}))  # a query may hold a password too

    def without_secrets(self, text: str) -> str:
        """Return a text of the server or its driver without what the URL gives as password or in its query."""
        if not self.server:
            return text
        url = _parsed(self.server)
        values = [value for part in url.query.values() for value in ([part] if isinstance(part, str) else part)]
        for secret in [url.password, *values]:
            for form in {secret, quote(secret or "", safe="")} if secret else ():
                text = text.replace(form, "***")
        return text

    @property
    def folder(self) -> Path:
        """The folder of the study's files that do not belong in a database."""
        if self.server:
            return self.file.with_suffix(".server")
        if self.is_default:
            return self.file.with_suffix("")
        return self.file.with_name(f"{self.file.name}.d") / self.name

    @property
    def weights(self) -> Path:
        """The folder of trained weights, which all studies in the same folder share."""
        return self.file.parent / "weights"

    @property
    def is_default(self) -> bool:
        """Whether it is the location of that name without ``--storage``."""
        return not self.server and self.file.resolve() == default_file(self.name).resolve()

    @property
    def workers(self) -> Path:
        """The folder of lock files of workers on this machine; the same for every path that leads to the file."""
        file = self.file.resolve()
        return file.with_name(f"{file.name}.{self.name}.workers")

    def named(self, name: str) -> StudyLocation:
        """Return the location of another study in the same storage."""
        return StudyLocation(name, default_file(name) if self.server else self.file, self.server)


def default_file(name: str) -> Path:
    """Return the file of a study without ``--storage``."""
    return Path("studies") / f"{name}.db"


def locate(name: str, storage: str | None = None) -> StudyLocation:
    """Return the location of a study.

    Args:
        name: Name of the study.
        storage: ``sqlite:///PATH`` or ``postgresql://…``; None is ``studies/<name>.db`` below the current directory.

    Raises:
        StudyError: No study can have that name.
        StorageError: The storage is not a URL that can be used.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(
            f"a study cannot be called {shown(name)}: letters, digits, dots, dashes and underscores, at most 64"
        )
    if storage is None:
        return StudyLocation(name, default_file(name))
    if _SERVER.match(storage):
        url = _parsed(storage)
        if not url.database:
            raise StorageError(f"the storage {str(url.set(query={}))!r} names no database: {EXPECTED}")
        return StudyLocation(
            name, default_file(name), url.set(drivername=_DRIVER).render_as_string(hide_password=False)
        )
    if not storage.startswith(_FILE_PREFIX) or not storage[len(_FILE_PREFIX) :]:
        raise StorageError(f"cannot use the storage {_without_password(storage)}: {EXPECTED}")
    return StudyLocation(name, Path(storage[len(_FILE_PREFIX) :]))


def _without_password(storage: str) -> str:
    """Return what can be shown of a text that is no URL of a storage: it may be a misspelt one, with a password."""
    rest = re.sub(r"^([a-z0-9+]+://|sqlite:)", "", storage)
    if not re.search(r"[:?=]", rest) and (rest != storage or "@" not in rest):
        return shown(storage)
    scheme = re.match(r"[a-z0-9+]{1,20}:(?=/)", storage, re.IGNORECASE)
    return f"'{scheme[0]}//…'" if scheme else "that is given"


def _parsed(url: str) -> Any:
    """Parse a URL.

    Raises:
        StorageError: It is not one.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # without the URL: it may hold a password
        raise StorageError(f"cannot read the storage's URL: {EXPECTED}") from None
