"""Files in the user's folder: all written or none, and nothing replaced without `force`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nas.errors import OutputError


def write_files(
    texts: Mapping[Path, str | bytes], folder: Path, *, force: bool = False, dry_run: bool = False
) -> list[Path]:
    """Write files and return their paths: all of them or, if one cannot be written, none.

    Args:
        texts: Contents by path below `folder`; text is written as UTF-8 with plain line ends.
        folder: The output folder; created if missing.
        force: Whether existing files may be replaced.
        dry_run: Whether to only return what would be written.

    Raises:
        OutputError: A path leads out of the folder, or a file exists and differs or cannot be written. Nothing has been
            written then.
    """
    if out := [path for path in texts if not _inside(path)]:
        raise OutputError(f"{', '.join(map(repr, map(str, out)))} would lie outside of {folder}: nothing is written")
    whole = {folder / path: text.encode() if isinstance(text, str) else text for path, text in texts.items()}
    done: list[Path] = []
    try:
        if folders := [p for p in whole if p.is_dir()]:
            raise OutputError(f"{', '.join(map(str, folders))} is a folder: move it away, or give another -o")
        old = {p: p.read_bytes() for p in whole if p.exists()}
        exists = [p for p, before in old.items() if before != whole[p]]
        if exists and not force:
            raise OutputError(f"{', '.join(map(str, exists))} exists and differs; --force replaces it")
        if dry_run:
            return list(whole)
        for parent in {path.parent for path in whole}:
            parent.mkdir(parents=True, exist_ok=True)
        scratch = {p: p.with_name(f".{p.name}.{os.getpid()}") for p in whole}
        try:
            for path, content in whole.items():
                scratch[path].write_bytes(content)
            for path in whole:
                scratch[path].replace(path)
                done.append(path)
        except BaseException:
            for path in done:
                path.write_bytes(old[path]) if path in old else path.unlink()
            raise
        finally:
            for path in scratch.values():
                path.unlink(missing_ok=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from None
    return list(whole)


def _inside(path: Path) -> bool:
    """Return whether a path stays below the folder that it is joined to, on any system."""
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and not any(c in part for part in path.parts for c in "\\:\0")
    )
