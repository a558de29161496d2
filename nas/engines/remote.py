"""A folder that another machine measures with its engine alone, and the results that it gives back."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.engines import ENGINES, Conditions, Engine, board
from nas.engines.folder import Subject, Written, write_folder
from nas.engines.measure import EngineLatency
from nas.errors import OptionError, OutputError, TableError, shown
from nas.files import dataclass_from_plain, parse_json


@dataclass(frozen=True)
class RemoteResults:
    """What `nas.engines.board` writes.

    Attributes:
        format: As `nas.engines.board.FORMAT`.
        imgsz: Image side in pixels.
        batch: Images in a run.
        engine: Name of the engine.
        version: Of the engine.
        machine: The processor.
        system: Operating system and architecture.
        precision: ``fp32`` or ``fp16``.
        threads: Threads of the engine.
        clock: What the times are of: ``processor time`` or ``time``.
        models: The results, the baseline first.
    """

    format: int
    imgsz: int
    batch: int
    engine: str
    version: str
    machine: str
    system: str
    precision: str
    threads: int
    clock: str
    models: tuple[EngineLatency, ...]

    @property
    def conditions(self) -> Conditions:
        """Under what they were measured."""
        return Conditions(self.imgsz, self.batch, self.threads, self.precision)

    @property
    def on(self) -> str:
        """The machine, in one line."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        title = ENGINES[self.engine].title
        return f"{self.machine}, {self.system}, {threads}, {title} {self.version} {self.precision}, {self.clock}"


def export_folder(
    folder: Path, engine: Engine, subjects: Sequence[Subject], conditions: Conditions, note: Callable[[str], None]
) -> Written:
    """Write a folder that another machine measures: models, inputs, PyTorch's answers, and the script.

    Args:
        folder: A new or empty folder.
        engine: The engine of the other machine; it is needed here too, for the export.
        subjects: The models, the baseline first.
        conditions: Image size, batch, threads, precision.
        note: Called with a line on progress.

    Raises:
        OptionError: The engine runs PyTorch, or none of the models can be exported.
        OutputError: The folder is not empty, or cannot be written.
    """
    if not engine.exported:
        others = ", ".join(e.name for e in ENGINES.values() if e.exported)
        raise OptionError(f"{engine.title} runs the module itself and has no file to export; {others} have")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists and is not empty: give a new folder")
        written = write_folder(folder, engine, subjects, conditions, note)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    if not written.names:
        shutil.rmtree(folder)
        failed = "\n".join(f"  {name}: {why}" for name, why in written.failures.items())
        raise OptionError(f"{engine.title}: no model can be exported:\n{failed}")
    return written


def read_results(path: Path, subjects: Sequence[Subject]) -> RemoteResults:
    """Return the results of another machine, of these models alone.

    Args:
        path: What the script wrote.
        subjects: The models that they have to be of, as they are named here.

    Raises:
        TableError: It cannot be read, or is of other models.
    """
    try:
        found = dataclass_from_plain(RemoteResults, parse_json(path.read_text(encoding="utf-8")), "it")
    except (OSError, ValueError) as error:
        raise TableError(
            f"cannot read {path}: {error}; expected the {board.RESULTS} that {board.SCRIPT} writes"
        ) from None
    if found.format != board.FORMAT or found.engine not in ENGINES:
        raise TableError(f"{path} is of another version: format {found.format}, engine {shown(found.engine)}")
    names = {subject.digest: subject.name for subject in subjects}
    if others := [model.name for model in found.models if model.digest not in names]:
        raise TableError(
            f"{path} has latencies of other models: {shown(', '.join(others))}; here are {', '.join(names.values())}. "
            "A model is known by its YAML and scale, whatever its file is called"
        )
    if broken := [m.name for m in found.models if not (m.failure or _is_timed(m))]:
        raise TableError(f"{path}: no time of {shown(', '.join(broken))}, and no failure either")
    return found


def _is_timed(model: EngineLatency) -> bool:
    """Return whether a result has a time: what another machine gives may be damaged."""
    if model.ms is None or model.ratio is None or model.spread_ms is None:
        return False
    return 0 < model.ms < math.inf and 0 < model.ratio < math.inf and 0 <= model.spread_ms < math.inf
