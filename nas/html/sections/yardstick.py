"""Against the yardstick: each variant and the pruned baseline of about the same GFLOPs, with a verdict."""

from __future__ import annotations

from typing import Any

from nas.html.section import RESULT, Section
from nas.html.source import VERDICTS, Source, kind_of
from nas.ranking.rank import RankRow
from nas.ranking.yardstick import Against, compare_with_yardsticks
from nas.report.ranking_notes import yardstick_words
from nas.training.scores import signed

_COLUMNS = (
    "Model", "GFLOPs", "Δ %", "mAP50-95", "Seeds", "Δ to the baseline", "Verdict", "Δ to the yardstick", "Against it",
)  # fmt: skip
_KINDS = {"better": "better", "worse": "worse"}


def yardstick(source: Source) -> Section | None:
    """Return the section; None for a study without yardsticks."""
    if not source.yardsticks:
        return None
    against = compare_with_yardsticks(source.rows, source.yardsticks, source.settings.prior)
    lines = []
    for made in reversed(source.yardsticks):
        lines.append(_line(made, None))
        lines += [
            _line(row, one) for row in source.rows if (one := against.get(row.trial.variant)) and one.yardstick is made
        ]
    return Section(
        id="yardstick",
        title="Against the pruned baseline",
        lead=yardstick_words(source.yardsticks),
        template=RESULT,
        values={"columns": _COLUMNS, "lines": lines, "texts": [0, 6, 8], "verdict": 8},
    )


def _line(row: RankRow, against: Against | None) -> dict[str, Any]:
    """Return a line of the table: a yardstick, or a variant against one."""
    t = row.trial
    kind = _KINDS.get(against.verdict, "single" if against.comparison.seeds == 1 else "unsure") if against else "base"
    c = against.comparison if against else None
    cells = [
        t.describe(), f"{t.gflops:.2f}", "" if row.delta_gflops is None else signed(100 * row.delta_gflops, 1),
        f"{t.map:.4f}", str(row.seeds), _within(row.delta_map, row.interval), VERDICTS[kind_of(row)][1],
        _within(c.delta, c.interval) if c else "", against.verdict if against else "",
    ]  # fmt: skip
    return {"cells": cells, "kind": kind, "sign": VERDICTS[kind][0] if against else "", "inner": against is not None}


def _within(delta: float | None, interval: tuple[float, float] | None) -> str:
    reach = f" ±{(interval[1] - interval[0]) / 2:.4f}" if interval else ""
    return "" if delta is None else signed(delta, 4) + reach
