"""Where the boxes fall: shares of the detection levels at the target and in the proxy."""

from __future__ import annotations

from nas.data.fidelity import Fidelity
from nas.data.levels import BOUNDS, LEVELS
from nas.html.section import Figure, Section, View, axis, rounded
from nas.html.source import Source


def levels(source: Source) -> Section | None:
    """Return the section; None for a study without a target."""
    s = source.settings
    if len(s.levels) != 2 or not s.target:
        return None
    small, large = BOUNDS
    names = [f"P3<br>below {small:g} px", f"P4<br>{small:g} to {large:g} px", f"P5<br>{large:g} px and more"]
    fidelity = Fidelity(s.recipe.imgsz, s.recipe.windows_at)
    series = ((f"target, {s.target} px", "$accent"), (f"proxy, {fidelity.words}", "$muted"))
    traces = [
        {
            "type": "bar", "name": name, "x": names[: len(LEVELS)], "y": rounded([100 * share for share in shares], 1),
            "marker": {"color": colour}, "text": [f"{100 * share:.0f} %" for share in shares],
            "textposition": "outside", "cliponaxis": False, "hovertemplate": "%{y:.1f} %<extra></extra>",
        }
        for (name, colour), shares in zip(series, s.levels, strict=True)
    ]  # fmt: skip
    layout = {
        "barmode": "group",
        "bargap": 0.35,
        "yaxis": axis("share of the boxes in %", rangemode="tozero"),
        "legend": {"orientation": "h", "y": 1.05, "yanchor": "bottom"},
    }
    lead = [
        (
            "Share of the boxes by size in input pixels. Only if both look alike does the proxy train the levels that "
            "the target uses."
        )
    ]
    title = "Shares of the detection levels at the target and in the proxy"
    figure = Figure("levels", title, [View("", traces)], layout=layout, height=340)
    return Section("levels", "What the proxy sees", lead, [figure])
