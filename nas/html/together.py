"""Studies side by side: what each found, and the differences of the variants that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas.html.page import answer_of, counts_of, now, page, warnings_of
from nas.html.section import DELTA, Figure, Section, View, axis, rounded
from nas.html.sections.forest import resolution_of
from nas.html.sections.front import SIZES, SYMBOLS
from nas.html.source import VERDICTS, Source, kind_of, plotly_text, short
from nas.ranking.rank import RankRow
from nas.training.scores import signed

_MOST = 40
"""Variants in the figure of differences."""
_COLOURS = ("$accent", "$better", "$worse", "$unsure")


def together_page(sources: Sequence[Source]) -> str:
    """Return the page of several studies.

    Raises:
        OutputError: Plotly is not installed.
    """
    warnings = [f"{source.name}: {line}" for source in sources for line in warnings_of(source)]
    sections = [_overview(sources), *_shared(sources)]
    return page(
        title=" and ".join(source.name for source in sources),
        eyebrow=f"{len(sources)} studies, {now()}",
        answer=[],
        commands=[],
        tiles=[],
        warnings=warnings,
        sections=sections,
        rows=[],
        shown=None,
    )


def _overview(sources: Sequence[Source]) -> Section:
    """Return the table with a column for each study."""
    facts = [_facts(source) for source in sources]
    lines = [[name, *(each[name] for each in facts)] for name in facts[0] if any(each[name] for each in facts)]
    return Section(
        id="overview",
        title="What each found",
        template="report_studies.html.j2",
        values={"names": [source.name for source in sources], "lines": lines},
    )


def _facts(source: Source) -> dict[str, str]:
    s, base, best = source.settings, source.base, source.winner
    counts = counts_of(source)
    resolution = resolution_of(source)
    first = best if best and not best.trial.variant.is_baseline else None
    return {
        "Answer": answer_of(source)[0],
        "Data": s.data or "demo data",
        "Space": f"{s.space.name}, {s.space.stock}",
        "Target": f"{s.target} px" if s.target else "",
        "Proxy": f"{s.recipe.init}, {s.recipe.epochs} epochs, {s.recipe.imgsz} px",
        "Baseline": f"{base.trial.map:.4f} mAP50-95, {base.trial.gflops:.2f} GFLOPs" if base else "not finished",
        "First": f"{first.trial.describe()}" if first else "",
        "Its Δ mAP50-95": _difference(first) if first else "",
        "Verdicts": counts,
        "Resolution": f"{resolution:.4f} mAP50-95" if resolution else "not known",
    }


def _difference(row: RankRow) -> str:
    text = "" if row.delta_map is None else signed(row.delta_map, 4)
    reach = f" [{row.interval[0]:+.4f}, {row.interval[1]:+.4f}]" if row.interval else ""
    return f"{VERDICTS[kind_of(row)][0]} {text}{reach}, {VERDICTS[kind_of(row)][1]}"


def _shared(sources: Sequence[Source]) -> list[Section]:
    """Return the section on the variants that all studies have measured; none where there are none."""
    tables = [_by_variant(source) for source in sources]
    common = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not common:
        return []
    lead = [
        (
            f"{len(common)} variants are in {'both' if len(sources) == 2 else 'all'} studies. Where the "
            "studies ask the same question, their differences to their own baselines agree within the intervals."
        )
    ]
    figures = [_forest(sources, tables, common[:_MOST])]
    if len(sources) == 2 and len(common) > 2:
        figures.append(_scatter(sources, tables, common))
    more = [f"The figure shows the first {_MOST} of the first study’s ranking."] if len(common) > _MOST else []
    return [Section("shared", "What they agree on", lead, figures, notes=more)]


def _by_variant(source: Source) -> dict[str, RankRow]:
    """Return the rows with a difference by the ID of the variant."""
    rows = [row for row in source.rows if row.delta_map is not None and not row.trial.variant.is_baseline]
    return {row.trial.variant.id: row for row in rows}


def _forest(sources: Sequence[Source], tables: Sequence[Mapping[str, RankRow]], common: Sequence[str]) -> Figure:
    """Return the forest plot: a line for each variant and study."""
    step = 0.6 / len(sources)
    traces: list[dict[str, Any]] = []
    for k, (source, table) in enumerate(zip(sources, tables, strict=True)):
        rows = [table[key] for key in common]
        colour = _COLOURS[k % len(_COLOURS)]
        above = [(row.interval[1] if row.interval else row.delta_map or 0.0) - (row.delta_map or 0.0) for row in rows]
        symbols = [SYMBOLS[kind_of(row)] for row in rows]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": plotly_text(source.name),
                "x": rounded([row.delta_map for row in rows]),
                "y": [len(common) - 1 - i + 0.3 - step * (k + 0.5) for i in range(len(common))],
                "error_x": {"type": "data", "array": rounded(above), "thickness": 2, "width": 0, "color": colour},
                "marker": {"symbol": symbols, "size": [SIZES[kind_of(row)] for row in rows], "color": colour},
                "hovertemplate": "%{x:+.4f}<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    names = [plotly_text(short(tables[0][key], 44)) for key in common]
    layout = {
        "xaxis": axis("Δ mAP50-95 to the study’s own baseline, with 95 % interval", DELTA, zeroline=True),
        "yaxis": {
            "tickvals": [len(common) - 1 - i for i in range(len(common))], "ticktext": names,
            "range": [-0.6, len(common) - 0.4], "ticks": "",
        },
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    }  # fmt: skip
    title = "Difference of mAP50-95 to the study’s own baseline"
    return Figure(
        "shared", title, [View("", traces)], layout=layout, height=120 + (18 + 14 * len(sources)) * len(common)
    )


def _scatter(sources: Sequence[Source], tables: Sequence[Mapping[str, RankRow]], common: Sequence[str]) -> Figure:
    """Return one study's differences against the other's."""
    pairs = [(tables[0][key].delta_map or 0.0, tables[1][key].delta_map or 0.0) for key in common]
    ends = [min(min(p) for p in pairs), max(max(p) for p in pairs)]
    dots = {
        "type": "scatter", "mode": "markers", "x": rounded([a for a, _ in pairs]), "y": rounded([b for _, b in pairs]),
        "text": [plotly_text(short(tables[0][key])) for key in common],
        "hovertemplate": "%{text}<br>%{x:+.4f}, %{y:+.4f}<extra></extra>", "marker": {"color": "$accent", "size": 9},
    }  # fmt: skip
    same = {
        "type": "scatter", "mode": "lines", "x": rounded(ends), "y": rounded(ends), "hoverinfo": "skip",
        "line": {"color": "$muted", "width": 1, "dash": "dot"},
    }  # fmt: skip
    layout = {
        "xaxis": axis(f"Δ mAP50-95 in {plotly_text(sources[0].name)}", DELTA, zeroline=True),
        "yaxis": axis(f"Δ mAP50-95 in {plotly_text(sources[1].name)}", DELTA, zeroline=True),
        "showlegend": False,
    }
    title = "One study against the other; the dotted line is agreement"
    return Figure("agree", title, [View("", [same, dots])], layout=layout, height=440)
