"""The sections of a report, in order. A new one is a file with a function from `Source` to a section, and an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from nas.html.section import Section
from nas.html.source import Source

SECTIONS: Mapping[str, str] = {
    "forest": "nas.html.sections.forest:forest",
    "front": "nas.html.sections.front:front",
    "yardstick": "nas.html.sections.yardstick:yardstick",
    "full": "nas.html.trained.full:full",
    "detections": "nas.html.trained.detections:detections",
    "heat-map": "nas.html.sections.heat_map:heat_map",
    "curves": "nas.html.sections.curves:curves",
    "bank": "nas.html.sections.bank:bank",
    "calibration": "nas.html.sections.calibration:calibration",
    "levels": "nas.html.sections.levels:levels",
    "seeds": "nas.html.sections.seeds:seeds",
    "table": "nas.html.sections.table:table",
    "made": "nas.html.sections.made:made",
}
"""ID to the function that makes the section, or None where the study has nothing for it."""


def sections_of(source: Source) -> list[Section]:
    """Return the sections of a study that have something to show; what fails is left out and named."""
    found = []
    for key, place in SECTIONS.items():
        module, name = place.split(":")
        make: Callable[[Source], Section | None] = getattr(import_module(module), name)
        section = source.attempt(key, lambda make=make: make(source))  # type: ignore[misc]
        if section:
            found.append(section)
    return found
