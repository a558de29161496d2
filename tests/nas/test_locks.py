"""Locks: one process at a time, free as soon as its process is gone, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nas.errors import LockError
from nas.locks import awaited, held, is_free, private_folder

HOLD = "import sys; from pathlib import Path; from nas.locks import held\n"
RACE = """
import os, sys
from pathlib import Path
from nas.locks import awaited

lock, inside, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for _ in range(turns):
    with awaited(lock, 60.0):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another one is inside
        os.unlink(inside)
"""


@pytest.fixture
def holder(tmp_path):
    """Return what starts a process that holds ``tmp_path / "lock"`` and then runs `code`, and gives its first line."""
    running = []

    def start(code="print(os.getpid(), flush=True)"):
        body = f"import os\n{HOLD}with held(Path(sys.argv[1]), 'it'):\n {code}\n sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", body, str(tmp_path / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate()


def kill(process):
    process.kill()  # SIGKILL: nothing of it runs any more
    process.wait()


@pytest.mark.parametrize("before", [None, "", "12345"])
def test_a_lock_is_free_when_its_process_is_killed(tmp_path, holder, before):
    lock = tmp_path / "lock"
    if before is not None:
        lock.write_text(before)
    process, _ = holder()
    for _ in range(2):  # and says whose it is, however often it is asked
        with pytest.raises(LockError, match=rf"works on it \(process {process.pid}\); let it end"), held(lock, "it"):
            pass
        assert not is_free(lock)
    kill(process)
    assert is_free(lock)
    with held(lock, "it"):
        assert lock.read_text() == str(os.getpid())
    assert lock.read_text() == ""


@pytest.mark.parametrize(
    "child",
    [
        "c = subprocess.Popen(['sleep', '60'])",
        "c = subprocess.Popen(['sleep', '60'], close_fds=False)",
        # As training processes are started.
        "c = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(60,)); c.start()",
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_child_does_not_inherit_a_lock(tmp_path, holder, child):
    process, pid = holder(f"import multiprocessing, subprocess, time; {child}; print(c.pid, flush=True)")
    kill(process)
    try:
        os.kill(int(pid), 0)  # the child lives
        assert is_free(tmp_path / "lock")
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_two_processes_are_never_inside_at_once(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path / "lock"), str(tmp_path / "inside"), "300"]
    racing = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in racing] == [("", 0)] * 2


def test_who_waits_for_a_lock_gives_up_in_time(tmp_path, holder):
    process, _ = holder()
    lock, began = tmp_path / "lock", time.monotonic()
    with pytest.raises(LockError, match=r"^another process has held .*lock for 1 s"), awaited(lock, 0.6):
        pass
    assert time.monotonic() - began >= 0.6
    kill(process)
    with awaited(lock, 0.6):
        assert not is_free(lock)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_lock_in_a_folder_that_is_read_only():
    folder = Path(tempfile.mkdtemp())  # the parents of tmp_path are closed to other users
    folder.chmod(0o555)
    superuser = os.geteuid() == 0  # whom permissions do not bind
    if superuser:
        os.seteuid(65534)
    try:
        for lock in (lambda: held(folder / "lock", "it"), lambda: awaited(folder / "lock", 1.0)):
            with pytest.raises(LockError, match=r"^cannot write .*lock: Permission denied$"), lock():
                pass
        assert not is_free(folder / "lock")
    finally:
        if superuser:
            os.seteuid(0)
        folder.rmdir()


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_lock_on_a_disk_that_is_full(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # files can be made, and nothing written to them
    try:
        with pytest.raises(LockError, match=r"^cannot write .*lock: File too large$"), held(tmp_path / "lock", "it"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_free(tmp_path / "lock")


def test_a_private_folder_outlives_nobody(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nas.locks import private_folder\n"
        "(private_folder(Path(sys.argv[1]), sys.argv[2]) / 'big').write_text('x'); print('made', flush=True)\n"
        "sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        private_folder(tmp_path / "run", "b")
        assert (tmp_path / "run" / "a" / "big").exists()
        other.kill()
        other.wait()
    private_folder(tmp_path / "run", "c")
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) == ["b", "c"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match="cannot write"), awaited(tmp_path / "file" / "lock", 1.0):
        pass
