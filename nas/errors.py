"""Errors of the project. A message states the problem, the given value, and what would be accepted.

Every failure that a user can cause is a `NasError`; the command line prints it without a traceback and exits with 1.
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import errno
import re
import reprlib
from typing import Literal


class NasError(Exception):
    """Base of every error that a user of the tool can cause."""


class SpaceError(NasError, ValueError):
    """A search space, a swap or a choice is wrong. Lists all problems, one per line."""


class SolverTimeout(SpaceError):
    """The solver ran out of time before it found any variant: whether there is one is not known."""


class ModelError(NasError, ValueError):
    """A model YAML cannot be read, or matches no known base. Lists all problems, one per line."""


class ModuleFileError(NasError, ImportError):
    """A user's module file cannot be read, fails on import, or registers no usable module."""


class TrustError(NasError, RuntimeError):
    """Code that came with a file would run, and the user has not said that it may."""


class DataError(NasError, ValueError):
    """A dataset is missing, malformed, or holds labels or images that cannot be trained on."""


class HostError(NasError, RuntimeError):
    """Modules cannot be registered with the installed Ultralytics."""


class BuildError(NasError, RuntimeError):
    """A variant could not be built, run forward or costed."""


class HeadError(BuildError):
    """A variant has another head than its base, for which there are no trained weights."""


class ProxyError(NasError, RuntimeError):
    """A training failed: out of memory, not a number, or its process died."""


class OptionError(NasError, ValueError):
    """Options contradict each other, lack one another, or have a value that cannot be used."""


class LockError(NasError, RuntimeError):
    """A lock cannot be taken: another process holds it, or its file cannot be written."""


class CalibrationError(NasError, RuntimeError):
    """A calibration is missing, unfinished, unreadable, or has too few results to say anything."""


class TableError(NasError, ValueError):
    """A table of measured trainings cannot be read, or lacks what a search needs of it."""


class ArtifactError(NasError, RuntimeError):
    """A trained baseline or a bank cannot be made, read or written, or is not the one that it should be."""


class OutOfMemory(ArtifactError):
    """A trained baseline or a bank could not be made, possibly for lack of memory."""


class BaselineNotTrained(ArtifactError):
    """A baseline has diverged or has not learnt, so nothing can inherit from it."""


class StorageError(NasError, RuntimeError):
    """The storage of a study cannot be used: its URL, its file or its server."""


class Unreachable(StorageError):
    """The server of a storage does not answer; a later try may succeed."""


class StudyError(NasError, RuntimeError):
    """A study does not exist, exists already, has other settings, or lacks the trials that are needed."""


class SeedExcluded(StudyError):
    """A study continues without this seed, and so without the run that was to be made under it."""


class WeightsError(NasError, ValueError):
    """A weights file is missing, is not a checkpoint, or belongs to another model or scale."""


class OutputError(NasError, FileExistsError):
    """A file would be overwritten, or cannot be written."""


class NotANumber(ProxyError):
    """The loss is no longer finite."""


class Diverged(ProxyError):
    """The loss is finite, but has risen to many times its earlier value."""


class BatchHalved(ProxyError):
    """Ultralytics halved the batch after an out-of-memory error, so the result would not be comparable."""


FailureKind = Literal["build", "memory", "nan", "diverged", "died", "kernel", "error"]

_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "not enough memory",
    "enough memory or other resources",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "killed by signal: killed",  # a loader process, by the system
    # How a CUDA library fails that finds no memory for itself:
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "cudnn_status_internal_error",
    "unable to find an engine",
    "nvml_success == r internal assert",
)
_OUT_OF_SHARED_MEMORY = ("out of shared memory", "shared memory limit", "bus error", "unable to mmap", "/dev/shm")
_SHARED_MEMORY = (
    "out of shared memory (/dev/shm), through which loader processes hand over images: in a container, give it "
    "--shm-size=8g or --ipc=host (Kubernetes: an emptyDir of medium Memory at /dev/shm)"
)


def failure_kind(error: BaseException) -> FailureKind:
    """Return the kind of a failure."""
    if isinstance(error, NotANumber):
        return "nan"
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, BuildError):
        return "build"
    if isinstance(error, MemoryError | BatchHalved) or _mentions(error, _OUT_OF_MEMORY + _OUT_OF_SHARED_MEMORY):
        return "memory"
    # A CUDA kernel of this package that cannot be used here, whatever variant it met: `nas.ops.kernels.runtime`, which
    # is not imported for it, has the class.
    return "kernel" if getattr(error, "failure_kind", "") == "kernel" else "error"


def _mentions(error: BaseException, words: tuple[str, ...]) -> bool:
    """Return whether the message of an error has one of some words."""
    text = str(error).lower()
    return any(word in text for word in words)


def failure_text(error: BaseException) -> str:
    """Return a failure as one line."""
    if failure_kind(error) == "memory" and not isinstance(error, NasError):
        short = _mentions(error, _OUT_OF_SHARED_MEMORY)
        return f"{_SHARED_MEMORY if short else 'out of memory'}: {one_line(error)}"
    if full := full_disk(error):
        return f"{full}: {one_line(error)}"
    return str(error) if isinstance(error, NasError) else one_line(error)


def one_line(error: BaseException) -> str:
    """Return an error as one line: its type and the first line of its message."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class ProxyFailure(ProxyError):
    """A proxy training failed; the search continues with other variants."""

    def __init__(self, kind: FailureKind, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.out_of_memory = out_of_memory or kind == "memory"
        """Whether memory may have run out: then the system kills a process without an error message."""


STOPPED = "its search was stopped"
"""Failure text of a trial that was interrupted because its search was stopped."""


# ---- text of others in messages -------------------------------------------------------------------------------------

_LONGEST_LINE = 1000
_MOST_LINES = 200
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line feed, and those that change the direction or the lines of a text."""


def shown(value: object, most: int = 80) -> str:
    """Return a value as messages show it: like `repr`, on one line, and cut where it is long or deep.

    Args:
        value: Any value from a file.
        most: Characters of a text, about.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = most
    short.maxlong = 40
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 6, 6, 4
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write out whole numbers of more than 4300 digits
        return f"a {type(value).__name__} that is too large to be shown"


def printable(text: str) -> str:
    """Return a text for a terminal: control characters as escapes such as ``\\x1b``, long lines and texts cut."""
    lines = _UNPRINTABLE.sub(_escape, text).split("\n")
    cut = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines]
    more = len(cut) - _MOST_LINES
    return "\n".join(cut if more <= 0 else [*cut[:_MOST_LINES], f"… and {more} more lines"])


def escaped(text: str) -> str:
    """Return a text with control characters as escapes such as ``\\x1b``; line feeds and tabs stay."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


_FULL_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the limit of the size of a file is reached",
    getattr(errno, "EDQUOT", -1): "the disk quota is used up",  # which Windows lacks
}
_UNWRITTEN = "the disk cannot be written; is it full?"


def full_disk(error: BaseException) -> str:
    """Return what keeps a file from growing, if that is what an error of the system says; else an empty text."""
    if "PytorchStreamWriter failed" in str(error):  # torch.save does not say why
        return _UNWRITTEN
    return _FULL_DISK.get(getattr(error, "errno", None) or 0, "")


def says_full_disk(text: str) -> bool:
    """Return whether a text of `failure_text` begins with one of `full_disk`."""
    return text.startswith((*_FULL_DISK.values(), _UNWRITTEN))
