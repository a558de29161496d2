"""Files of the tool: atomic writing, JSON files, and the folder of its cache."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nas.errors import ArtifactError, escaped, shown

Parsed = TypeVar("Parsed")


# ---- text of users --------------------------------------------------------------------------------------------------


def decode_text(content: bytes) -> tuple[str, str]:
    """Return the text of a file of a user, and a word about its encoding; empty for UTF-8.

    Raises:
        UnicodeDecodeError: It is neither UTF-8, UTF-16 with its mark, nor GB 18030, which includes GBK.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16").replace("\r\n", "\n"), "read as UTF-16; save it as UTF-8 for other tools"
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n"), ""
    except UnicodeDecodeError:
        text = content.decode("gb18030").replace("\r\n", "\n")
        return text, "not UTF-8, read as GBK; save it as UTF-8 for other tools"


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


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is not JSON, or it is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


_LARGEST = 2**63


def from_plain(kind: Any, value: Any, where: str = "it") -> Any:
    """Return a plain value of a file as a type: a dataclass, tuple, mapping, union, literal or scalar.

    Control characters in texts become escapes.

    Args:
        kind: The type, as a type hint.
        value: The value: of JSON.
        where: What it is, for the message.

    Raises:
        ValueError: It is of another type; the message says where.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return _escaped(value)
    if origin is Literal and isinstance(value, str | int) and value in parts:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return dataclass_from_plain(kind, value, where)
    if origin in (Union, UnionType):
        for part in parts:
            with contextlib.suppress(ValueError):
                return from_plain(part, value, where)
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [parts[0]] * len(value) if parts[-1] is ... else list(parts)
        if len(kinds) == len(value):
            return tuple(from_plain(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {from_plain(parts[0], k, where): from_plain(parts[1], v, f"{where}.{k}") for k, v in value.items()}
    elif kind is str and isinstance(value, str):
        return escaped(value)
    elif kind in (bool, int, float, type(None)) and _is_of(kind, value):
        return value
    raise ValueError(f"{where} is {shown(value)}, expected {getattr(kind, '__name__', kind)}")


def _escaped(value: Any) -> Any:
    """Return plain values whose texts have escapes for control characters."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(part) for key, part in value.items()}
    return [_escaped(part) for part in value] if isinstance(value, list) else value


def _is_of(kind: Any, value: Any) -> bool:
    """Return whether a value is a truth value, a number or None as its kind says; whole numbers fit into 64 bits."""
    kinds = (int, float) if kind is float else (kind,)
    return type(value) in kinds and (type(value) is not int or abs(value) < _LARGEST)


def check_whole_numbers(value: Any) -> None:
    """Raise ValueError if plain values have a whole number of more than 64 bits, with which arithmetic fails later."""
    if type(value) is int:
        if abs(value) >= _LARGEST:
            raise ValueError(f"{shown(value)}: no number of a study is as large")
    elif isinstance(value, dict):
        for part in value.values():
            check_whole_numbers(part)
    elif isinstance(value, list):
        for part in value:
            check_whole_numbers(part)


def dataclass_from_plain(kind: type[Parsed], value: Any, where: str = "it", **ready: Any) -> Parsed:
    """Return a dataclass of plain values by the names of its fields, as `from_plain`.

    Args:
        kind: The class.
        value: The plain values.
        where: What it is, for the message.
        ready: Fields that need no conversion, and are not among the values.

    Raises:
        ValueError: A field is missing, is not known, or is of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {shown(value)}, expected {kind.__name__}")
    members: Any = kind
    hints = _hints(members)
    if unknown := value.keys() - (hints.keys() - ready.keys()):
        raise ValueError(f"{where} has an unknown entry {shown(min(unknown))}")
    for member in fields(members):
        if member.default is member.default_factory is MISSING and not {member.name} & (value.keys() | ready.keys()):
            raise ValueError(f"{where} lacks the entry {member.name!r}")
    return kind(**ready, **{key: from_plain(hints[key], part, f"{where}.{key}") for key, part in value.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {member.name: hints[member.name] for member in fields(kind)}


def read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return the content of a JSON file, parsed by `parse`.

    Raises:
        ArtifactError: It cannot be read, or `parse` does not understand it.
    """
    try:
        return parse(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
    except (LookupError, TypeError, AttributeError, ArithmeticError):
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
