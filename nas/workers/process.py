"""Proxies: short trainings that stand for full ones.

A proxy is one variant, one seed, one pinned recipe, and gives a curve. It runs in a process of its own that is kept
from one proxy to the next: imports and decoded images stay, and what a failing variant breaks dies with the process.
This file is the parent's side; `nas.workers.worker` trains.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from nas.errors import ProxyFailure
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.scores import EpochScore


class ProxyWorker:
    """A training process that is kept from proxy to proxy, and replaced when it dies."""

    def __init__(self, cache: Path, threads: int | None = None) -> None:
        """Prepare; the process starts with the first job, or with `start`.

        Args:
            cache: Where the host may write (settings, a font).
            threads: CPU threads; None takes the cores that this process may use.
        """
        self._cache = cache
        self._threads = threads or available_cores()
        self._process: Any = None
        self._pipe: Any = None
        self._starting = threading.Lock()
        self._killed = False

    def start(self) -> None:
        """Start the process now: it imports what it needs, which takes seconds, before there is a job."""
        with contextlib.suppress(ProxyFailure):  # the first job tries again
            self._start()

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job and return its result.

        Args:
            job: What to train.
            on_epoch: Called with each epoch's score as it comes; of a training that goes on, first with those that it
                had.

        Raises:
            ProxyFailure: It failed; the worker stays usable.
        """
        started = time.monotonic()
        result: ProxyResult = self.work(job, on_epoch)
        return replace(result, seconds=result.seconds + time.monotonic() - started)

    def work(self, job: Any, on_progress: Callable[[Any], None] | None = None) -> Any:
        """Do any job that the process knows, and return what it gives; as `run`.

        Raises:
            ProxyFailure: It failed; the worker stays usable.
        """
        self._start()
        try:
            self._pipe.send(job)
            while True:
                kind, body = self._pipe.recv()
                if kind == "progress":
                    if on_progress:
                        on_progress(body)
                elif kind == "done":
                    return body
                else:
                    failure, message = body
                    if failure in ("memory", "error"):  # what it has broken in its process is unknown
                        self.close()
                    raise ProxyFailure(failure, message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            why = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            hint = "; the system kills processes so when memory runs out" if code == -9 else ""
            raise ProxyFailure("died", f"the training process died ({why}){hint}", out_of_memory=code == -9) from None
        except ProxyFailure:
            raise
        except BaseException:  # Ctrl-C above all: a training that nobody waits for must not go on
            self.close()
            raise

    def kill(self) -> None:
        """End the process for good, from another thread; whoever waits for it hears that it died."""
        with self._starting:
            self._killed = True
            process = self._process
            if process is not None:
                process.kill()

    def close(self) -> None:
        """Stop the process, whatever it does."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process = self._pipe = None

    def __enter__(self) -> ProxyWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Start the process unless it runs.

        Raises:
            ProxyFailure: It was killed for good, or the system starts no further process.
        """
        if self._process is not None and self._process.is_alive() and not self._killed:
            return
        self.close()
        from nas.workers.worker import serve

        context = multiprocessing.get_context("spawn")
        with self._starting:
            if self._killed:
                raise ProxyFailure("died", "the training process was stopped")
            try:
                pipe, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, str(self._cache), self._threads))
                # Not a daemon: it starts processes of its own where images are loaded beside a GPU. It ends with its
                # pipe, with its parent, or in `close`.
                with _uninterrupted():
                    process.start()
            except OSError as error:  # too many processes or files, or no memory for one more
                short = error.errno in (errno.ENOMEM, errno.EAGAIN)
                text = f"the training process could not be started: {error}"
                raise ProxyFailure("died", text, out_of_memory=short) from None
            self._process, self._pipe = process, pipe
        theirs.close()


@contextlib.contextmanager
def trainers_of(cache: Path, workers: int) -> Iterator[list[ProxyWorker]]:
    """Give training processes that share the cores, and start them: they import while this process is at other things.

    Args:
        cache: Where they may write.
        workers: How many.
    """
    threads = max(1, available_cores() // workers)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(ProxyWorker(cache, threads)) for _ in range(workers)]
        for trainer in made:
            trainer.start()
        yield made


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait, for what is started meanwhile too: until a process ignores it, it would die with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first start of a process would start it, and let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
