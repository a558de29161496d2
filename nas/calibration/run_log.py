"""The finished runs of a calibration, one per line: what was trained, how, and all scores.

The key of a run is a digest of everything that influences its result, so a calibration can be interrupted, extended by
variants, seeds or proxies, and resumed: existing runs are not trained again, and outdated ones are ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.errors import CalibrationError, OutputError
from nas.files import parse_json
from nas.space.variant import Variant
from nas.training.jobs import ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation, scores


@dataclass(frozen=True)
class Run:
    """One training of a calibration.

    Attributes:
        proxy: Name of the proxy.
        recipe: Its recipe.
        variant: The variant.
        seed: Seed of everything random in it.
        controls: For a control: the baseline's layers whose original modules, distilled again, come from the bank.
    """

    proxy: str
    recipe: Recipe
    variant: Variant
    seed: int
    controls: tuple[str, ...] = ()

    def key(self, fingerprint: str, versions: tuple[tuple[str, str], ...], yaml: str, inherits: str = "") -> str:
        """Return a digest, 16 hex digits, of everything that influences the result; the proxy's name does not.

        Args:
            fingerprint: Fingerprint of the dataset.
            versions: Versions of the packages that influence results.
            yaml: The variant's model YAML.
            inherits: Key of the baseline whose weights are inherited; empty without one.
        """
        body: list[object] = [self.recipe.identity(), yaml, self.seed, fingerprint, [list(pair) for pair in versions]]
        if inherits or self.controls:
            body += [inherits, list(self.controls)]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        run_key: As `Run.key`.
        result: Its result; None if it failed.
        failure: Failure text; empty if it did not fail.
    """

    run_key: str
    result: ProxyResult | None
    failure: str = ""

    @property
    def scores(self) -> dict[str, float]:
        """All scores; empty for a failure."""
        return scores(self.result.curve, self.result.average) if self.result else {}


class RunFile:
    """An append-only file of finished runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Finished]:
        """Return the finished runs by key, without a last line that was cut off when the process was killed.

        Raises:
            CalibrationError: The file cannot be read, or contains something else.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read {self.path}: {error}") from None
        found = {}
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):  # `append` will remove it
                break
            try:
                done = _read(parse_json(line))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise CalibrationError(f"{self.path}:{number} is not a finished run") from None
            found[done.run_key] = done
        return found

    def append(self, run: Run, done: Finished) -> None:
        """Append a finished run, and flush it to the disk.

        Raises:
            OutputError: It cannot be written.
        """
        body = {
            "key": done.run_key,
            "proxy": run.proxy,
            "variant": run.variant.id,
            "swaps": f"control {', '.join(run.controls)}" if run.controls else run.variant.describe(),
            "seed": run.seed,
            "failure": done.failure,
            "result": asdict(done.result) if done.result else None,
        }
        text = json.dumps(_rounded(body)) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                if file.tell():  # a killed process may have left an incomplete line
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        _drop_torn(file)
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error}") from None


def _drop_torn(file: Any) -> None:
    """Truncate a file after its last complete line."""
    file.seek(0)
    body = file.read()
    file.truncate(body.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def _rounded(value: Any) -> Any:
    """Return plain values with floats rounded to 7 digits; more are noise."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _read(body: Mapping[str, Any]) -> Finished:
    """Parse a line of `RunFile.append`."""
    result = body["result"]
    if result is None:
        return Finished(body["key"], None, body["failure"])
    average = Validation(**result["average"]) if result["average"] else None
    curve = tuple(EpochScore.from_json(score) for score in result["curve"])
    inherited = (result["inherited"][0], result["inherited"][1])
    return Finished(body["key"], ProxyResult(curve, average, inherited, result["cpu_seconds"], result["seconds"]))
