"""The list of modules without their classes, for commands that only read names and arguments: it needs no torch.

``modules.json`` holds what is registered here; `tests/ops/test_list.py` compares it with the registry and rewrites it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from nas.ops.registry import Arg, Entry, FromSlot, needs_of, use_list

LIST = "modules.json"
"""The list, a file of this package."""


@functools.cache
def listed() -> dict[str, Entry]:
    """Return the entries of the list by name, without those whose classes the installed Ultralytics lacks."""
    return {name: _read_entry(name, facts) for name, facts in _read_list().items() if name not in absent()}


def absent() -> dict[str, str]:
    """Return the modules of the list that are not available, and the class that the installed Ultralytics lacks."""
    missing = {name: [n for n in facts["needs"] if not _is_there(n)] for name, facts in _read_list().items()}
    return {name: lacked[0].partition(":")[2] for name, lacked in missing.items() if lacked}


@functools.cache
def _read_list() -> dict[str, Any]:
    body: dict[str, Any] = json.loads((resources.files("nas.ops") / LIST).read_text(encoding="utf-8"))
    return body


def to_list(entry: Entry) -> dict[str, Any]:
    """Return what the list holds of an entry, as plain values.

    `needs` are the classes of Ultralytics that its class is derived from, is, or is made of.
    """
    needed = [c for c in (*entry.cls.__mro__, *needs_of(entry.name)) if c.__module__.startswith("ultralytics.")]
    params = [
        {"slot": p.key, "name": p.name} if isinstance(p, FromSlot) else {**asdict(p), "options": list(p.options)}
        for p in entry.params
    ]
    return {
        "source": entry.source,
        "rule": entry.rule,
        "kinds": sorted(entry.kinds),
        "params": params,
        "paper": entry.paper,
        "summary": entry.summary,
        "requires": entry.requires,
        "fits": entry.fits and f"{entry.fits.__module__}:{entry.fits.__name__}",
        "starts": entry.starts,
        "needs": [f"{c.__module__}:{c.__name__}" for c in needed],
    }


def _read_entry(name: str, facts: Mapping[str, Any]) -> Entry:
    """Return the entry that `to_list` wrote."""
    params = tuple(
        FromSlot(p["name"], p["slot"]) if "slot" in p else Arg(**{**p, "options": tuple(p["options"])})
        for p in facts["params"]
    )
    source, _, function = (facts["fits"] or "").partition(":")
    fits = getattr(importlib.import_module(source), function) if source else None
    words = (facts["paper"], facts["summary"], facts["requires"])
    kinds = frozenset(facts["kinds"])
    return Entry(name, facts["source"], facts["rule"], kinds, params, *words, fits, None, facts["starts"])


def _is_there(needed: str) -> bool:
    """Return whether the installed Ultralytics defines a class, ``module:name``, without importing it."""
    source, _, name = needed.partition(":")
    return name in _classes(source)


@functools.cache
def _classes(source: str) -> frozenset[str]:
    """Return the classes that a file of Ultralytics defines."""
    package, *inner = source.split(".")
    path = (folder_of(package) or Path()).joinpath(*inner).with_suffix(".py")
    return frozenset(re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.M) if path.is_file() else ())


def folder_of(package: str) -> Path | None:
    """Return the folder of an installed package without importing it; None if it is not installed."""
    spec = importlib.machinery.PathFinder.find_spec(package) or importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


use_list(listed, absent)
