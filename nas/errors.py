"""The project's errors. A message says what was wrong, what was given, and what would do.

Every failure that a user can cause is a `NasError`; the command line prints it without a traceback and exits with 1.
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class NasError(Exception):
    """Base of every error that a user of the tool can cause."""


class SpaceError(NasError, ValueError):
    """A search space, a swap or a choice is wrong. Lists every problem that was found, one a line."""


class ModelError(NasError, ValueError):
    """A model YAML cannot be read, or is of no base that is known. Lists every problem, one a line."""


class ModuleFileError(NasError, ImportError):
    """A file of own modules cannot be read, fails when it is imported, or registers nothing that can be used."""


class DataError(NasError, ValueError):
    """A dataset is missing, malformed, or holds labels or images that cannot be trained on."""


class HostError(NasError, RuntimeError):
    """The installed Ultralytics is not one that modules can be registered with."""


class BuildError(NasError, RuntimeError):
    """A variant could not be built, run forward or costed."""


class ProxyError(NasError, RuntimeError):
    """A proxy training failed: out of memory, not a number, or its process died."""


class StudyError(NasError, RuntimeError):
    """A study's storage cannot be used, or it holds a study of another space, dataset or recipe."""


class Unreachable(StudyError):
    """A server of studies that does not answer, and may do so later."""


class Starved(StudyError):
    """What a search needs could not be made, maybe for lack of memory."""


class Untaught(StudyError):
    """A baseline has diverged or has not learnt, so nothing can inherit from it."""


class LeftOut(StudyError):
    """A study goes on without a seed, and so without the run that was to be made under it."""


class WeightsError(NasError, ValueError):
    """A file of weights is missing, no checkpoint, or of another model or scale."""


class OutputError(NasError, FileExistsError):
    """A file would be overwritten, or cannot be written."""


class NotANumber(ProxyError):
    """The loss is no longer finite."""


class Diverged(ProxyError):
    """The loss is a number, but rose to many times what it had been: nothing will come of the training."""


class BatchHalved(ProxyError):
    """The host halved the batch after running out of memory; the result would not be comparable."""
