"""What a report consists of: sections with their text, figures and tables, as plain data.

Python computes, the template and its script draw. Colours in a figure are names of the page's palette, such as
``$better``; the script replaces them, so that a figure follows the light or the dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

Trace: TypeAlias = Mapping[str, Any]
"""A trace of Plotly. Its key ``rows`` holds the row of the ranking of each point: what the page's filter leaves out is
not drawn; what is shown where one points at them is in the page only once, with the rows."""


@dataclass(frozen=True)
class View:
    """One of the ways in which a figure can be looked at.

    Attributes:
        label: What the reader chooses.
        traces: Its traces, after those that all views share.
        layout: What it changes in the figure's layout.
    """

    label: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure that Plotly draws.

    Attributes:
        id: ID in the page, unique.
        title: What it shows, for readers that cannot see it.
        views: At least one; the first is drawn first.
        traces: Traces of all views.
        styles: What traces have in common: one that has a ``style`` is completed by what has its name here.
        layout: Layout of Plotly, on top of the page's own.
        choose: What is chosen where there are several views, such as ``cost``.
        height: Pixels.
    """

    id: str
    title: str
    views: Sequence[View]
    traces: Sequence[Trace] = ()
    styles: Mapping[str, Trace] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    choose: str = ""
    height: int = 420

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the page's script."""
        return asdict(self)


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        id: ID in the page, unique.
        title: Heading.
        lead: What it shows and how to read it, a paragraph each.
        figures: Its figures.
        template: Name of a Jinja template for what Plotly does not draw; empty for none.
        values: What that template prints.
        notes: Small print under it, a paragraph each.
    """

    id: str
    title: str
    lead: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    template: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


RESULT = "report_result.html.j2"
"""The template of a table of results: ``columns``, ``texts`` (places of those that are text), ``verdict`` (the place of
the verdict), and ``lines``, each with its ``cells``, ``kind``, ``sign``, and whether it belongs to the one above."""
MAP, DELTA = ".3f", "+.3f"
"""Formats of the ticks of an axis of mAP, and of differences of it."""


def axis(title: str, ticks: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis of Plotly with a title and a format of its ticks."""
    return {"title": {"text": title}, **({"tickformat": ticks} if ticks else {}), **more}


def rounded(values: Sequence[float | None], digits: int = 5) -> list[float | None]:
    """Return numbers as short as a picture needs them."""
    return [None if v is None else round(v, digits) for v in values]
