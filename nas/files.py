"""Files of the tool: where its cache lies, and JSON that is written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nas.errors import ArtifactError

Parsed = TypeVar("Parsed")


def read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return what `parse` makes of a file."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
    except (KeyError, TypeError, AttributeError):
        why = "it is not what this version writes"
    raise ArtifactError(f"cannot read {path}: {why}; delete it to have it made anew")


def write_json(path: Path, body: Any) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(body, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error}") from None


# ---- where it is kept -----------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Return the folder for files that can be made again: $NAS_CACHE, or swapnas in the system's place for caches."""
    own = os.environ.get("NAS_CACHE")
    if own:
        return Path(own).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "swapnas"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "swapnas"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swapnas"
