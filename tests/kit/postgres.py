"""A PostgreSQL server of the tests' own, on loopback."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Server:
    """A server that can be stopped and started again, with a role that may do everything and one that may not."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.data, self._user = folder / "data", user
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]

    def run(self, *command: str) -> None:
        """Run one of PostgreSQL's programs as a user that it accepts."""
        done = subprocess.run(
            command, user=self._user, cwd=self.data.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert not done.returncode, done.stderr

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='' -c fsync=off"
        log = str(self.data.parent / "log")
        self.run("pg_ctl", "-D", str(self.data), "-l", log, "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def url(self, database: str, user: str = "nas", password: str = "secret") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)


def why_not() -> str:
    """Say why no server can be started here; empty if one can."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        return "PostgreSQL's initdb and pg_ctl are not on the PATH"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    return "" if os.geteuid() or _other_user() else "PostgreSQL refuses to run as root, and there is no other user"


def _other_user() -> str | None:
    import pwd  # POSIX only; this file is imported everywhere

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextmanager
def server() -> Iterator[Server]:
    """Give a running server; it goes with its data."""
    user = None if os.geteuid() else _other_user()
    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
    try:
        (folder / "password").write_text("secret\n")
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        made = Server(folder, user)
        made.run(
            "initdb", "-D", str(made.data), "-U", "nas", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}",
            "-N", "-E", "UTF8", "--locale=C",
        )  # fmt: skip
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
