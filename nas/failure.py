"""Of what kind a failure of a training is, and its one line."""

from __future__ import annotations

from typing import Literal

from nas.errors import BatchHalved, BuildError, Diverged, NasError, NotANumber

FailureKind = Literal["build", "memory", "nan", "diverged", "died", "error"]


def failure_kind(error: BaseException) -> FailureKind:
    """Classify what went wrong."""
    if isinstance(error, NotANumber):
        return "nan"
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, BuildError):
        return "build"
    text = str(error).lower()
    memory = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    if isinstance(error, MemoryError | BatchHalved) or any(m in text for m in memory):
        return "memory"
    return "error"


def failure_text(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    from nas.host import one_line

    if failure_kind(error) == "memory" and not isinstance(error, NasError):
        return f"out of memory: {one_line(error)}"
    return str(error) if isinstance(error, NasError) else one_line(error)
