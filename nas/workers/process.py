"""The training process, seen from the parent process; `nas.workers.worker` is the other side.

A process is kept from one job to the next, with its imports and decoded images; after a failure that may have broken
something in it, it is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from nas.errors import ProxyFailure
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.scores import EpochScore
from nas.workers.count import available_cores


class ProxyWorker:
    """A training process that is kept from job to job, and replaced when it dies."""

    def __init__(self, cache: Path, threads: int | None = None) -> None:
        """Prepare; the process starts with the first job, or with `start`.

        Args:
            cache: Where the host may write (settings, a font).
            threads: CPU threads of each job, `self.threads` from then on; None is the number of cores.
        """
        self._cache = cache
        self.threads = threads or available_cores()
        self._process: Any = None
        self._pipe: Any = None
        self._starting = threading.Lock()
        self._killed = False

    def start(self) -> None:
        """Start the process now, so that its imports, which take seconds, are done before the first job."""
        with contextlib.suppress(ProxyFailure):  # the first job retries
            self._start()

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job and return its result.

        Args:
            job: The training.
            on_epoch: Called with each epoch's score; when a training is resumed, first with those of its checkpoint.

        Raises:
            ProxyFailure: It failed; the worker stays usable.
        """
        started = time.monotonic()
        result: ProxyResult = self.work(job, on_epoch)
        return replace(result, seconds=result.seconds + time.monotonic() - started)

    def work(self, job: Any, on_progress: Callable[[Any], None] | None = None) -> Any:
        """Do a job of any kind, and return its result; as `run`.

        Raises:
            ProxyFailure: It failed; the worker stays usable.
        """
        self._start()
        try:
            self._pipe.send((job, self.threads))
            while True:
                kind, body = self._pipe.recv()
                if kind == "progress":
                    if on_progress:
                        on_progress(body)
                elif kind == "note":
                    _say_once(body)
                elif kind == "done":
                    return body
                else:
                    failure, message = body
                    if failure in ("memory", "kernel", "error"):  # the state of the process is unknown
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
        except BaseException:  # Ctrl-C above all: the training must not continue without its caller
            self.close()
            raise

    def kill(self) -> None:
        """End the process for good, from another thread; a caller that waits for it gets a `ProxyFailure`."""
        with self._starting:
            self._killed = True
            process = self._process
            if process is not None:
                process.kill()

    def close(self) -> None:
        """Stop the process, also in the middle of a job."""
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
                process = context.Process(target=serve, args=(theirs, str(self._cache), self.threads))
                # Not a daemon: with a GPU it starts processes that load images. It ends with its pipe, with its parent,
                # or in `close`.
                with _uninterrupted():
                    process.start()
            except OSError as error:  # too many processes or files, or no memory for one more
                short = error.errno in (errno.ENOMEM, errno.EAGAIN)
                text = f"the training process could not be started: {error}"
                raise ProxyFailure("died", text, out_of_memory=short) from None
            self._process, self._pipe = process, pipe
        theirs.close()


@contextlib.contextmanager
def trainers_of(cache: Path, workers: int, first: ProxyWorker | None = None) -> Iterator[list[ProxyWorker]]:
    """Yield started training processes that share the cores; they import while this process does other things.

    Args:
        cache: Where the host may write.
        workers: Number of processes.
        first: The first of them, if there is one already; the caller closes it.
    """
    threads = max(1, available_cores() // workers)
    with contextlib.ExitStack() as stack:
        made = [first] if first else []
        made += [stack.enter_context(ProxyWorker(cache)) for _ in range(workers - len(made))]
        for trainer in made:
            trainer.threads = threads
            trainer.start()
        yield made


@functools.cache
def _say_once(text: str) -> None:
    """Say what a training process has to say of this machine: the same of several processes once."""
    warnings.warn(text, stacklevel=5)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Block Ctrl-C, also for a process that is started: until that ignores it, it would die with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first start of a process would start it, and let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
