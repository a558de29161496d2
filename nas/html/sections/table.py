"""The ablation table: what the winner consists of, and the whole ranking, to copy into a paper."""

from __future__ import annotations

from typing import Any

from nas.html.section import Section
from nas.html.source import VERDICTS, Source, kind_of, swaps_of, words_of
from nas.ranking.rank import RankRow
from nas.space.bases import shown_task
from nas.training.scores import signed

COLUMNS = ("Variant", "mAP50", "mAP50-95", "Δ mAP50-95", "± 95 %", "Seeds", "Verdict", "Params (M)", "GFLOPs")
LATENCY = "Latency (ms)"


def table(source: Source) -> Section | None:
    """Return the section; None without a ranking."""
    if not source.rows:
        return None
    columns, lines = table_of(source)
    parts = parts_of(source)
    lead = ["Copied is what is shown; the filter at the top applies here too."]
    return Section(
        id="table",
        title="Ablation table",
        lead=lead,
        template="report_table.html.j2",
        values={"columns": columns, "lines": lines, "parts": len(parts) if len(parts) > 2 else 0},
        notes=_notes(source),
    )


def table_of(source: Source) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of the columns, and the lines: cells, kind, place, and whether the winner is made of it."""
    timed = any(row.trial.latency_ms is not None for row in source.rows)
    parts = {row.rank for row in parts_of(source)}
    lines = [
        {
            "cells": _cells(row, timed),
            "kind": kind_of(row),
            "sign": VERDICTS[kind_of(row)][0],
            "place": source.place[row.trial.number],
            "part": row.rank in parts,
            "swaps": words_of(row.trial),
        }
        for row in source.rows
    ]
    columns = map(shown_task(source.settings.space.base).named, COLUMNS)
    return [*columns, *([LATENCY] if timed else [])], lines


def parts_of(source: Source) -> list[RankRow]:
    """Return the rows of an ablation of the winner: the baseline and every variant with some of its swaps only."""
    if source.winner is None:
        return []
    own = set(swaps_of(source.winner.trial))
    found = [row for row in source.rows if set(swaps_of(row.trial)) <= own]
    return sorted(found, key=lambda row: (len(swaps_of(row.trial)), row.rank))


def _cells(row: RankRow, timed: bool) -> list[str]:
    t, base = row.trial, row.trial.variant.is_baseline
    half = f"{(row.interval[1] - row.interval[0]) / 2:.4f}" if row.interval and not base else ""
    cells = [
        t.describe(), f"{row.map50:.3f}", f"{t.map:.4f}",
        "" if base or row.delta_map is None else signed(row.delta_map, 4), half, str(row.seeds),
        VERDICTS[kind_of(row)][1], f"{t.params / 1e6:.2f}", f"{t.gflops:.2f}",
    ]  # fmt: skip
    return [*cells, "" if t.latency_ms is None else f"{t.latency_ms:.1f}"] if timed else cells


def _notes(source: Source) -> list[str]:
    failed = [t for t in source.runs if t.status in ("failed", "rejected")]
    return [
        f"{'Failed' if t.status == 'failed' else 'Over a limit'}: {t.describe()}: {t.failure}" for t in failed[:20]
    ] + ([f"and {len(failed) - 20} more that failed or were over a limit"] if len(failed) > 20 else [])
