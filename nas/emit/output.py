"""Files in the user's folder: all written or none, and nothing replaced without `force`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.errors import OutputError
from nas.files import write_all


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
    try:
        if folders := [p for p in whole if p.is_dir()]:
            raise OutputError(f"{', '.join(map(str, folders))} is a folder: move it away, or give another -o")
        exists = [p for p, content in whole.items() if p.exists() and p.read_bytes() != content]
        if exists and not force:
            raise OutputError(f"{', '.join(map(str, exists))} exists and differs; --force replaces it")
        if dry_run:
            return list(whole)
        write_all(whole)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from None
    return list(whole)


def _inside(path: Path) -> bool:
    """Whether a path names a file below the folder that it is joined to, on any system."""
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and not any(c in part for part in path.parts for c in "\\:\0")
    )
