"""The console, and the tables that are printed on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.space.bases import shown_task
from nas.task.task import DETECT
from nas.training.scores import signed

if TYPE_CHECKING:
    from nas.ranking.rank import RankRow
    from nas.ranking.yardstick import Against
    from nas.solver.front import Difference, Front, FrontRow
    from nas.space.variant import Variant
    from nas.study.study import Study

_WIDTH_WHEN_PIPED = 140
_WIDE = 115
"""Terminal width from which the ranking has all of its columns."""
LONG = 60
"""Characters of a variant's swaps beyond which a table names it by its ID, or has them below it."""


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console; its lines are wide and plain if the output is not a terminal; `quiet` prints nothing."""
    console = Console(stderr=stderr, highlight=False, quiet=quiet)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, quiet=quiet, width=_WIDTH_WHEN_PIPED, no_color=True)
    return console


class _PlainTable(Table):
    """A table whose cells are shown as they are: square brackets in a path or a swap are no markup."""

    def add_row(self, *cells: object, **options: Any) -> None:
        """Add a row; text is not read as markup."""
        super().add_row(*(Text(c) if isinstance(c, str) else c for c in cells), **options)  # type: ignore[arg-type]


def make_table(*columns: str, right: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """Return an empty table without lines between its cells.

    Args:
        columns: Their names.
        right: Those that are aligned to the right; the others are to the left.
        no_wrap: Those whose cells are truncated to one line where space is short; the others wrap.
    """
    table = _PlainTable(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name in no_wrap,
            overflow="ellipsis" if name in no_wrap else "fold",
        )
    return table


def short_swaps(swaps: str, name: str = "see below") -> str:
    """Return a variant's swaps, or `name` where they are too long for a table."""
    return swaps if len(swaps) <= LONG else name


def swap_lines(described: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each variant whose swaps are too long for a table: its ID, and the swaps."""
    found = dict.fromkeys((name, swaps) for name, swaps in described if len(swaps) > LONG)
    return ["", *(f"{name}  {swaps}" for name, swaps in found)] if found else []


def ranking_table(rows: Sequence[RankRow], width: int, full: Mapping[str, float] | None = None) -> Table:
    """Return the ranking as a table, on a narrow terminal without its least important columns.

    Args:
        rows: The ranking, not empty.
        width: Of the terminal.
        full: mAP50-95 of full trainings by variant ID.
    """
    trained = full or {}
    wide = width >= _WIDE
    task = shown_task(rows[0].trial.variant.base)

    def within(value: str, interval: tuple[float, float] | None, digits: int) -> str:
        return f"{value} ±{(interval[1] - interval[0]) / 2:.{digits}f}" if interval and wide else value

    def difference(row: RankRow) -> str:
        if row.delta_map is None or row.trial.variant.is_baseline:
            return ""
        digits = 4 if row.interval and wide else 3
        return within(signed(row.delta_map, digits), row.interval, digits)

    columns: dict[str, Callable[[RankRow], str]] = {
        "#": lambda r: f"{r.rank}{'*' if r.on_front else ' '}",
        "variant": lambda r: r.trial.variant.id,
        "swaps": lambda r: ("(below the floor) " if r.below_floor else "") + short_swaps(r.trial.describe()),
        task.metric: lambda r: within(f"{r.trial.map:.3f}", r.map_interval, 3),
        "n": lambda r: str(r.seeds),
        "Δ": difference,
        "verdict": lambda r: r.verdict if r.seeds > 1 or r.trial.variant.is_baseline else f"{r.seeds} seed",
        "full": lambda r: f"{trained[r.trial.variant.id]:.3f}" if r.trial.variant.id in trained else "",
        "shrunk": lambda r: "" if r.shrunk is None else signed(r.shrunk, 4),
        "GFLOPs": lambda r: f"{r.trial.gflops:.2f}",
        "Δ%": lambda r: (
            "" if r.delta_gflops is None or r.trial.variant.is_baseline else signed(100 * r.delta_gflops, 1)
        ),
        "params": lambda r: f"{r.trial.params / 1e6:.2f}M",
        "ms": lambda r: "" if r.trial.latency_ms is None else f"{r.trial.latency_ms:.1f}",
        "distil": lambda r: "" if r.trial.distillation is None else f"{r.trial.distillation:.2f}",
        task.named("mAP/GFLOP"): lambda r: f"{r.trial.map_per_gflop:.4f}",
    }
    idle = [] if wide else ["n", "shrunk", "params", "Δ%", "distil"]
    idle += ["distil"] * all(r.trial.distillation is None for r in rows)
    idle += ["full"] * all(r.trial.variant.id not in trained for r in rows)
    idle += ["shrunk"] * all(r.shrunk is None for r in rows)
    idle += ["ms"] * all(r.trial.latency_ms is None for r in rows)
    columns = {name: column for name, column in columns.items() if name not in idle}
    table = make_table(
        *columns, right=columns.keys() - {"swaps", "variant", "verdict"}, no_wrap=columns.keys() - {"swaps"}
    )
    for row in rows:
        table.add_row(
            *(value(row) for value in columns.values()), style="bold" if row.trial.variant.is_baseline else None
        )
    return table


def front_table(front: Front, width: int, metric: str = DETECT.metric) -> Table:
    """Return the front of a study as a table, on a narrow terminal without its least important columns.

    Args:
        front: The front.
        width: Of the terminal.
        metric: The main metric of the study's task.
    """

    def cost(row: FrontRow, quantity: str, factor: float, unit: str = "") -> str:
        value = row.costs.get(quantity)
        return "" if value is None else f"{'~' * (quantity in row.estimated)}{value / factor:.2f}{unit}"

    def share(row: FrontRow) -> str:
        value = row.costs.get("gflops")
        return "" if value is None or row.kind == "baseline" else signed(100 * (value / front.base["gflops"] - 1), 1)

    def difference(value: Difference | None) -> str:
        if value is None:
            return ""
        if value.low is None or value.high is None:
            return signed(value.mean, 4)
        return f"{signed(value.mean, 4)} ±{(value.high - value.low) / 2:.4f}"

    def map_of(row: FrontRow) -> str:
        value = row.measured or row.predicted
        return "" if value is None else f"{'~' * (row.measured is None)}{front.base_map + value.mean:.3f}"

    columns: dict[str, Callable[[FrontRow], str]] = {
        "budget": lambda r: r.budget or r.kind,
        "kind": lambda r: r.kind if r.budget else "",
        "variant": lambda r: r.variant,
        "swaps": lambda r: r.note if r.note and not r.variant else short_swaps(r.swaps),
        "GFLOPs": lambda r: cost(r, "gflops", 1),
        "Δ%": share,
        "params": lambda r: cost(r, "params", 1e6, "M"),
        "ms": lambda r: cost(r, "latency_ms", 1),
        metric: map_of,
        "predicted Δ": lambda r: difference(r.predicted),
        "measured Δ": lambda r: "" if r.kind == "baseline" else difference(r.measured),
        "n": lambda r: str(r.seeds or ""),
        "verdict": lambda r: r.verdict if r.seeds > 1 and r.kind != "baseline" else "",
    }
    idle = [] if width >= _WIDE else ["kind", "params", "verdict"]
    idle += ["ms"] * all("latency_ms" not in row.costs for row in front.rows)
    idle += ["verdict"] * all(row.seeds < 2 for row in front.rows)
    columns = {name: column for name, column in columns.items() if name not in idle}
    right = columns.keys() - {"budget", "kind", "variant", "swaps", "verdict"}
    table = make_table(*columns, right=right, no_wrap=columns.keys() - {"swaps"})
    for row in front.rows:
        style = "bold" if row.kind == "baseline" else None
        table.add_row(*(value(row) for value in columns.values()), style=style)
    return table


def front_notes(study: Study, front: Front) -> list[str]:
    """Return what has to be said of a front."""
    lines = [
        "",
        "Differences in mAP50-95 to the baseline; ± 95 %. ~ is predicted, or a sum that was not counted.",
        f"The prediction has learnt from {front.trained} trained variants"
        + (" and the output scores of single swaps." if front.scored else "."),
    ]
    if not front.scored:
        lines.append(
            "The study has no output scores, so only swaps that it has trained are combined: "
            f"`nas search --study {study.location.name} --sampler exact` computes them."
        )
    lines = [shown_task(study.settings.space.base).said(line) for line in lines]
    lines += [row.note for row in front.rows if row.note and row.variant and row.kind == "best predicted"]
    return lines


def yardstick_table(
    rows: Sequence[RankRow], yardsticks: Sequence[RankRow], against: Mapping[Variant, Against]
) -> Table:
    """Return the yardsticks from the most GFLOPs on, each followed by the variants near it, with both verdicts."""
    metric = shown_task(yardsticks[0].trial.variant.base).metric
    right = ("GFLOPs", "Δ%", metric, "n", "Δ baseline", "Δ yardstick")
    table = make_table(
        "model", "GFLOPs", "Δ%", metric, "n", "Δ baseline", "verdict", "Δ yardstick", "verdict against it",
        right=right, no_wrap=right,
    )  # fmt: skip
    for yardstick in reversed(yardsticks):
        table.add_row(f"pruned to width {yardstick.trial.variant.width:g}", *_of_baseline(yardstick), "", "")
        for row in rows:
            found = against.get(row.trial.variant)
            if found and found.yardstick is yardstick:
                c = found.comparison
                delta = "" if c.delta is None else _within(c.delta, c.interval)
                named = short_swaps(row.trial.describe(), row.trial.variant.id)
                table.add_row(f"  {named}", *_of_baseline(row), delta, found.verdict)
    return table


def _of_baseline(row: RankRow) -> list[str]:
    """Return a row's cost, mAP50-95, and comparison with the baseline."""
    return [
        f"{row.trial.gflops:.2f}",
        "" if row.delta_gflops is None else signed(100 * row.delta_gflops, 1),
        f"{row.trial.map:.3f}",
        str(row.seeds),
        "" if row.delta_map is None else _within(row.delta_map, row.interval),
        row.verdict if row.seeds > 1 else f"{row.seeds} seed",
    ]


def _within(delta: float, interval: tuple[float, float] | None) -> str:
    reach = f" ±{(interval[1] - interval[0]) / 2:.4f}" if interval else ""
    return signed(delta, 4) + reach
