"""Full trainings as tables: the ranking for a terminal, and the ablation table of a paper as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from nas.calibration.resolution import Interval
from nas.data.sizes import SIZES
from nas.full.ranking import FullRow, ProxyAgreement, Value, groups_of, map_interval
from nas.full.run import FullRun
from nas.ranking.verdict import LEVEL
from nas.space.bases import shown_task
from nas.task.task import DETECT
from nas.training.scores import signed

_METRICS = ("precision", "recall", "map50", "map50_95", "small", "medium", "large")
_TITLES = ("P", "R", "mAP50", "mAP50-95", "S", "M", "L")
_ORDER = ("baseline", "variant", "pruned", "scaled")
Cells: TypeAlias = list[list[str]]

# ---- the terminal ---------------------------------------------------------------------------------------------------


def ranking_cells(rows: Sequence[FullRow], shown: Callable[[str], str] = str) -> tuple[list[str], Cells]:
    """Return the columns and cells of a ranking of full trainings.

    Args:
        rows: The ranking.
        shown: How the table has swaps, which may be long.
    """
    task = shown_task(rows[0].run.base)
    columns: dict[str, Callable[[FullRow], str]] = {
        "#": lambda r: f"{r.rank}{'*' if r.on_front else ' '}",
        "model": lambda r: r.run.model,
        "swaps": lambda r: ("(below the floor) " if r.below_floor else "") + shown(r.run.title),
        task.metric: lambda r: _within(f"{r.map:.3f}", map_interval(r), 3),
        "n": lambda r: str(len(r.runs)),
        "Δ": _delta,
        "verdict": lambda r: r.verdict if len(r.runs) > 1 or r.run.kind == "baseline" else "1 seed",
        task.named("mAP50"): lambda r: _mean(r.values["map50"]),
        "S/M/L": lambda r: "/".join(_mean(r.values[size], 2) or "–" for size in ("small", "medium", "large")),
        "GFLOPs": lambda r: f"{r.run.gflops:.2f}",
        "Δ%": lambda r: "" if r.run.kind == "baseline" else _percent(r.delta_gflops),
        "params": lambda r: f"{r.run.params / 1e6:.2f}M",
        "ms": lambda r: "" if r.run.latency_ms is None else f"{r.run.latency_ms:.1f}",
        task.named("mAP/GFLOP"): lambda r: f"{r.map_per_gflop:.4f}",
    }
    if task is not DETECT:  # these are of boxes
        del columns["S/M/L"]
    return list(columns), [[cell(row) for cell in columns.values()] for row in rows]


def full_notes(rows: Sequence[FullRow], runs: Sequence[FullRun], agreed: ProxyAgreement | None, data: str) -> list[str]:
    """Return the notes under a ranking of full trainings.

    Args:
        rows: The ranking of one group.
        runs: All full trainings of the study.
        agreed: How the proxies' order agreed; None with too few variants.
        data: Name of the dataset.
    """
    first = rows[0].run
    of_boxes = shown_task(first.base) is DETECT
    notes = [
        (
            f"Full training: {first.settings}, by Ultralytics {dict(first.versions).get('ultralytics', '?')} on "
            f"{data}; scores of best.pt, chosen on the validation images that it is scored on."
        ),
        (
            "Δ: mean difference to the baseline under the same seeds, ± its 95 % interval. Verdicts: family-wise error "
            f"rate of at most {LEVEL:.0%} (Holm)."
            + (" S/M/L: mAP50-95 of small, medium and large objects (COCO's areas)." if of_boxes else "")
        ),
    ]
    if not any(row.run.kind == "baseline" for row in rows):
        notes.append("No baseline has been trained with these settings: --with baseline trains it, for verdicts.")
    if latency := next((row.run.latency_on for row in rows if row.run.latency_on), ""):
        notes.append(f"ms: median latency of one image of {first.imgsz} px, fused, float32, on {latency}.")
    others = [own for group, own in groups_of(runs).items() if group != first.group]
    notes += [
        f"Other full trainings, {len(own)}: {own[0].settings}; --settings {own[0].group} ranks them."
        for own in others[:_MOST_GROUPS]
    ]
    if len(others) > _MOST_GROUPS:
        notes.append(f"{len(others) - _MOST_GROUPS} more settings are not listed: --json holds all trainings.")
    notes += [f"failed: {run.model} seed {run.seed}: {run.failure}" for run in runs if run.status == "failed"]
    notes += [f"running or stopped: {run.model} seed {run.seed}" for run in runs if run.status == "running"]
    return notes + ([agreement_words(agreed)] if agreed else [])


_MOST_GROUPS = 5


def agreement_words(agreed: ProxyAgreement) -> str:
    """Return how the proxies' order agreed with full training, in words."""
    a = agreed.overall
    partial = (
        "at equal GFLOPs it cannot be told, as GFLOPs alone give one of the orders"
        if agreed.partial is None
        else f"at equal GFLOPs {agreed.partial:.2f}{_between(agreed.partial_interval)}"
    )
    return (
        f"Proxies against full training, {a.n} variants: Spearman {a.spearman:.2f}{_between(a.spearman_interval)}, "
        f"Kendall {a.kendall:.2f}{_between(a.kendall_interval)}; Spearman {partial}. Brackets: 95 % intervals over "
        "variants."
    )


def _between(interval: Interval | None) -> str:
    return f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""


def _within(text: str, interval: Interval | None, digits: int) -> str:
    return f"{text} ±{(interval[1] - interval[0]) / 2:.{digits}f}" if interval else text


def _delta(row: FullRow) -> str:
    c = row.comparison
    if c.delta is None or row.run.kind == "baseline":
        return ""
    return _within(signed(c.delta, 4), c.interval, 4)


def _percent(share: float | None) -> str:
    return "" if share is None else signed(100 * share, 1)


def _mean(value: Value | None, digits: int = 3) -> str:
    return f"{value.mean:.{digits}f}" if value else ""


# ---- a paper --------------------------------------------------------------------------------------------------------


def in_order_of_ablation(rows: Sequence[FullRow]) -> list[FullRow]:
    """Return the baseline, then each swap alone, combinations, the same with a teacher, and scaled models."""

    def place(row: FullRow) -> tuple[object, ...]:
        run = row.run
        return _ORDER.index(run.kind), run.distilled, len(run.swaps) > 1, row.rank

    return sorted(rows, key=place)  # type: ignore[arg-type,unused-ignore]  # tuples of the same kinds


def ablation_table(rows: Sequence[FullRow], form: str) -> str:
    """Return the ablation table of full trainings.

    Args:
        rows: The ranking of one group.
        form: ``md``, ``latex`` for the package booktabs, or ``csv``.
    """
    ordered = in_order_of_ablation(rows)
    if form == "csv":
        return _csv(ordered)
    plus = r" $\pm$ " if form == "latex" else " ± "
    task = shown_task(ordered[0].run.base)
    shown = range(0 if task.has_objects else 2, len(_TITLES) - (0 if task is DETECT else len(SIZES)))
    titles = [_TITLES[k] for k in shown]
    columns = ["model", "n", *titles, "params (M)", "GFLOPs", "ms", "Δ mAP50-95", "verdict"]
    columns = [task.named(column) for column in columns]
    cells = [
        [
            row.run.title,
            str(len(row.runs)),
            *(_spread(row.values[name], plus) for name in (_METRICS[k] for k in shown)),
            f"{row.run.params / 1e6:.2f}",
            f"{row.run.gflops:.2f}",
            "" if row.run.latency_ms is None else f"{row.run.latency_ms:.1f}",
            _paper_delta(row, plus),
            row.verdict if len(row.runs) > 1 or row.run.kind == "baseline" else "1 seed",
        ]
        for row in ordered
    ]
    return _latex(columns, cells) if form == "latex" else _markdown(columns, cells)


def _spread(value: Value | None, plus: str) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.3f}" + ("" if value.deviation is None else f"{plus}{value.deviation:.3f}")


def _paper_delta(row: FullRow, plus: str) -> str:
    c = row.comparison
    if c.delta is None or row.run.kind == "baseline":
        return ""
    reach = f"{plus}{(c.interval[1] - c.interval[0]) / 2:.4f}" if c.interval else ""
    return f"{c.delta:+.4f}{reach}"


def _markdown(columns: Sequence[str], cells: Cells) -> str:
    rule = ["---", *(["--:"] * (len(columns) - 2)), "---"]
    lines = [columns, rule, *([cell.replace("|", r"\|") for cell in row] for row in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_OF_LATEX: Mapping[str, str] = {
    "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "{": r"\{", "}": r"\}", "Δ": r"$\Delta$", "–": "--",
    "\\": r"\textbackslash{}", "$": r"\$", "*": r"$\ast$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _latex(columns: Sequence[str], cells: Cells) -> str:
    """Return a table for the package booktabs."""

    def escaped(text: str) -> str:
        kept = r" $\pm$ "
        return kept.join("".join(_OF_LATEX.get(c, c) for c in part) for part in text.split(kept))

    lines = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 2)}l}}", r"\toprule"]
    lines += [" & ".join(map(escaped, columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escaped, row)) + r" \\" for row in cells]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def full_rows(rows: Sequence[FullRow]) -> list[dict[str, Any]]:
    """Return the rows as plain values: means, standard deviations over seeds (``_sd``), differences and costs."""
    found = []
    for row in rows:
        run, c = row.run, row.comparison
        plain: dict[str, Any] = {
            "rank": row.rank, "model": run.model, "kind": run.kind, "swaps": run.title,
            "seeds": " ".join(str(r.seed) for r in row.runs),
        }  # fmt: skip
        for name in _METRICS:
            value = row.values[name]
            plain[name] = None if value is None else round(value.mean, 5)
            plain[f"{name}_sd"] = None if value is None or value.deviation is None else round(value.deviation, 5)
        low, high = c.interval or (None, None)
        plain |= {
            "map50_95_paired": round(row.map, 5),
            "delta_map50_95": None if c.delta is None else round(c.delta, 5),
            "interval_low": None if low is None else round(low, 5),
            "interval_high": None if high is None else round(high, 5),
            "verdict": row.verdict,
            "p_holm": None if c.p is None else float(f"{c.p:.4g}"),
            "params": run.params,
            "gflops": round(run.gflops, 4),
            "delta_gflops_percent": None if row.delta_gflops is None else round(100 * row.delta_gflops, 2),
            "latency_ms": None if run.latency_ms is None else round(run.latency_ms, 3),
            "epochs": " ".join(str(len(r.curve)) for r in row.runs),
            "seconds": round(sum(r.seconds for r in row.runs), 1),
            "settings": run.settings,
        }
        found.append(plain)
    return found


def _csv(rows: Sequence[FullRow]) -> str:
    plain = full_rows(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()
