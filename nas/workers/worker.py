"""The training process: receives jobs, trains or distils, and sends progress and results back.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nas.bank.jobs import DistilJob, ScoreJob
from nas.errors import failure_kind, failure_text
from nas.training.jobs import ProxyJob
from nas.yardstick.jobs import PruneJob

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Job: TypeAlias = ProxyJob | DistilJob | ScoreJob | PruneJob
"""What a training process can do."""


def serve(pipe: Connection, cache: str, threads: int) -> None:
    """Do jobs until the pipe closes. Runs as the main function of its own process.

    Args:
        pipe: Brings jobs, each with its number of CPU threads.
        cache: Where the host may write.
        threads: CPU threads of what does not set its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ultralytics sets 1 where it is unset
    # Threads that spin for each other are a little faster on a quiet machine, and several times slower on a busy one
    # (benchmarks/busy.py).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from nas.model.offline import go_offline, offline_environment

    os.environ.update(offline_environment(Path(cache)))  # first: these, and a job that is received, import the host
    if not os.environ.get("NAS_DEBUG"):  # the host prints tables, and warnings would break the parent's live line
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the life of the process
        warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):  # the first job reports what is wrong
        go_offline(Path(cache))
        _import_all()
        gc.freeze()  # what is imported stays, and the collections after each job need not look at it
        _send_notes(pipe)
    while True:
        try:
            job, of_job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            go_offline(Path(cache))
            message = handle_job(job, of_job, lambda progress: pipe.send(("progress", progress)))
        except BrokenPipeError:
            return
        pipe.send(message)


def handle_job(job: Job, threads: int, report: Callable[[Any], None]) -> tuple[str, Any]:
    """Do one job, and return the message with its result or its failure; nothing else is left of it in the process.

    Raises:
        BrokenPipeError: `report` has nobody to report to.
    """
    try:
        return "done", do_job(job, threads, report)
    except BrokenPipeError:
        raise
    except Exception as error:  # sent to the parent, which records it with the variant
        if os.environ.get("NAS_DEBUG"):
            traceback.print_exc()
        failed = failure_kind(error), failure_text(error)
    finally:
        _free_memory()
    return "failed", failed


def _free_memory() -> None:
    """Free what a job leaves: a trainer and its models refer to each other, and hold their share of a GPU's memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def do_job(job: Job, threads: int, report: Callable[[Any], None]) -> Any:
    """Do one job in this process, and return its result.

    Args:
        job: The job.
        threads: CPU threads.
        report: Called with progress: epochs of a training, steps of a distillation, batches of a score.
    """
    from nas.bank.distil import distil
    from nas.own import use
    from nas.training.train import train
    from nas.yardstick.prune import prune

    if isinstance(job, DistilJob | PruneJob):
        use(job.proxy.modules)
        return distil(job, threads, report) if isinstance(job, DistilJob) else prune(job, threads, report)
    if isinstance(job, ScoreJob):
        from nas.bank.scoring import score_outputs

        use(job.proxy.modules)
        return score_outputs(job, threads, report)
    use(job.modules)
    return train(job, threads, report)


def _send_notes(pipe: Connection) -> None:
    """Let the parent say what the kernels have to say: warnings of this process are not shown."""
    from nas.ops.kernels import runtime

    runtime.notify = lambda text: pipe.send(("note", text))


def _import_all() -> None:
    """Import what jobs need; a process that is started early does so while its parent does other things."""
    for name in ("nas.training.train", "nas.bank.distil", "torch._dynamo"):  # the last: optimizers need it
        importlib.import_module(name)


def _die_with_parent() -> None:
    """End this process when its parent has ended, for any reason."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
