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
from nas.locks import Watch, held, is_free, leased, private_folder

HOLD = "import sys; from pathlib import Path; from nas.locks import held\n"
RACE = """
import os, sys
from pathlib import Path
from nas.locks import leased

lock, inside, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for _ in range(turns):
    with leased(lock, 60.0):
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
    with pytest.raises(LockError, match=r"^another process has held .*lock for 1 s"), leased(lock, 0.6):
        pass
    assert time.monotonic() - began >= 0.6
    kill(process)
    with leased(lock, 0.6):
        assert not is_free(lock)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_lock_in_a_folder_that_is_read_only():
    folder = Path(tempfile.mkdtemp())  # the parents of tmp_path are closed to other users
    folder.chmod(0o555)
    superuser = os.geteuid() == 0  # whom permissions do not bind
    if superuser:
        os.seteuid(65534)
    try:
        for lock in (lambda: held(folder / "lock", "it"), lambda: leased(folder / "lock", 1.0)):
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
    with pytest.raises(LockError, match="cannot write"), leased(tmp_path / "file" / "lock", 1.0):
        pass


HOLDS = """
import sys
from pathlib import Path
from nas import locks
locks.BEAT_S = 0.1
with locks.leased(Path(sys.argv[1]), 10.0) as lease:
    print("in", flush=True)
    sys.stdin.readline()
    print(lease.is_kept, flush=True)
"""


@pytest.fixture
def soon(monkeypatch):
    """Let a lease be lost after a second or so."""
    monkeypatch.setattr("nas.locks.BEAT_S", 0.1)
    monkeypatch.setattr("nas.locks.LEASE_S", 1.5)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_lease_is_taken_from_a_stopped_process_and_from_no_other(tmp_path, soon):
    path = tmp_path / "turn"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(LockError, match="another process has held"), leased(path, 3.0):
            pass  # it lives, and touches the file
        other.send_signal(signal.SIGSTOP)
        with leased(path, 20.0) as mine:
            assert mine.is_kept
            other.send_signal(signal.SIGCONT)
            assert other.communicate("\n")[0] == "False\n"  # it knows that it cannot rely on what it did
            assert mine.is_kept
        with leased(path, 1.0) as again:
            assert again.is_kept
    assert not again.is_kept


def test_a_lease_of_a_killed_process_is_free_at_once(tmp_path):
    path = tmp_path / "turn"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        other.kill()
        other.wait()
        with leased(path, 1.0) as mine:
            assert mine.is_kept


def test_a_watch_counts_only_while_it_looks(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("nas.locks.time.monotonic", lambda: clock[0])
    watch = Watch()

    def still_after(seconds, value):
        clock[0] += seconds
        return watch.seconds_still("a", value, 10.0)

    assert [still_after(*step) for step in ((0, 1), (5, 1), (9, 1), (1, 2), (8, 2), (11, 2), (3, 2))] == [
        0.0, 5.0, 14.0, 0.0, 8.0, 0.0, 3.0,
    ]  # fmt: skip
