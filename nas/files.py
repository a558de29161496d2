"""Files of the tool: atomic writing, JSON files, and the folder of its cache."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.errors import ArtifactError

Parsed = TypeVar("Parsed")


# ---- atomic writing -------------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, as `replacing`; text as UTF-8 with its own line ends."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give the path of a temporary file to write; at the end it replaces `path`, unless there was an error.

    The temporary name is unique, so that several writers of one path do not share it.

    Args:
        path: The file; its folder is made if necessary, and an existing file's permissions are kept.
        folder: Where the temporary file is, on the same file system; next to `path` by default.

    Raises:
        OSError: It cannot be written. `path` is unchanged then, and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, folder or path.parent) as temporary:
        yield temporary
        _move_over(temporary, path)


def write_all(changes: Mapping[Path, bytes | None]) -> None:
    """Write several files, in this order: all of them or, after an error, none; None removes a file.

    Raises:
        OSError: One cannot be written or removed. All are as they were then.
    """
    before = {path: path.read_bytes() if path.exists() else None for path in changes}
    done: list[Path] = []
    with contextlib.ExitStack() as stack:
        temporaries = {}
        for path, content in changes.items():
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporaries[path] = stack.enter_context(_temporary(path, path.parent))
                temporaries[path].write_bytes(content)
        try:
            for path in changes:
                if path in temporaries:
                    _move_over(temporaries[path], path)
                else:
                    path.unlink()
                done.append(path)
        except BaseException:
            for path in done:
                old = before[path]
                if old is None:
                    path.unlink()
                else:
                    path.write_bytes(old)
            raise


@contextlib.contextmanager
def _temporary(path: Path, folder: Path) -> Iterator[Path]:
    """Give a unique path for a temporary file, and remove the file at the end unless it has been moved."""
    temporary = folder / f".{path.name}.{secrets.token_hex(4)}"
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _move_over(temporary: Path, path: Path) -> None:
    """Replace a file, if it exists, by a temporary one."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())  # else a crash of the machine could leave the new name with no content
    with contextlib.suppress(OSError):
        shutil.copymode(path, temporary)
    temporary.replace(path)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return the content of a JSON file, parsed by `parse`.

    Raises:
        ArtifactError: It cannot be read, or `parse` does not understand it.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
    except (KeyError, TypeError, AttributeError):
        why = "it is not in the format of this version"
    raise ArtifactError(f"cannot read {path}: {why}; delete it, and it will be made again")


def write_json(path: Path, body: Any) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        ArtifactError: It cannot be written.
    """
    try:
        write_atomic(path, json.dumps(body, indent=1))
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error}") from None


# ---- the cache ------------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Return the folder for files that can be made again: $NAS_CACHE, or swapnas in the system's folder for caches."""
    own = os.environ.get("NAS_CACHE")
    if own:
        return Path(own).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "swapnas"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "swapnas"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swapnas"
