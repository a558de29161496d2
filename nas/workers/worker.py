"""The training process: receives jobs, trains them with Ultralytics, sends scores back.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.bank.jobs import DistilJob
from nas.errors import failure_kind, failure_text

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(pipe: Connection, cache: str, threads: int) -> None:
    """Train jobs until the pipe closes. Runs as the main function of its own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ultralytics sets 1 where it is unset
    from nas.model.offline import go_offline, offline_environment

    os.environ.update(offline_environment(Path(cache)))  # first: these, and a job that is received, import the host
    from nas.bank.distil import distil
    from nas.own import use
    from nas.training.train import train

    if not os.environ.get("NAS_DEBUG"):  # the host prints tables, and warnings would break the parent's live line
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the life of the process
        warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):  # the first job says what is wrong
        _import_all(Path(cache))
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            go_offline(Path(cache))
            use((job.proxy if isinstance(job, DistilJob) else job).modules)
            work: Any = distil if isinstance(job, DistilJob) else train
            message: tuple[str, Any] = ("done", work(job, threads, lambda seen: pipe.send(("progress", seen))))
        except BrokenPipeError:
            return
        except Exception as error:  # sent to the parent, which records it with the variant
            message = ("failed", (failure_kind(error), failure_text(error)))
            if os.environ.get("NAS_DEBUG"):
                traceback.print_exc()
        pipe.send(message)


def _import_all(cache: Path) -> None:
    """Import what trainings need; a process that is started early does so while its parent is at other things."""
    from nas.model.offline import go_offline
    from nas.training.proxy_trainer import trainer_class

    go_offline(cache)
    trainer_class()
    import torch._dynamo  # noqa: F401  # what optimizers import when they are first made


def _die_with_parent() -> None:
    """End this process when its parent is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
