"""The files of a calibration: Markdown tables, the picture, and the result for ``nas search --proxy``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nas.bank.store import IDLE
from nas.calibration.assessment import DIFFERENCE, FULL_SCORE, Assessment
from nas.calibration.choose import ProxyMerit
from nas.calibration.equal_cost import COST, CostRow
from nas.calibration.plot import panel_points, plot_calibration
from nas.calibration.result import RESULT_FILE
from nas.errors import OutputError
from nas.space.bases import shown_task
from nas.study.settings import PER_SEED
from nas.training.scores import SCORES


def to_markdown(j: Assessment) -> str:
    """Return the assessment as Markdown."""
    c = j.calibration
    parts = [_head(j), _merit_table(j), full_training_words(j), agreement_table(j), _variant_table(j)]
    if j.drops:
        idle = {slot for slot, drop in j.drops.items() if drop < IDLE}
        parts.append(
            "mAP50-95 that the trained baseline loses when a layer's output is replaced by the means of its "
            "channels:\n\n"
            + "\n".join(f"- {s}: {d:.4f}{' (cannot matter here)' if s in idle else ''}" for s, d in j.drops.items())
        )
    if j.errors:
        rows = [f"| {slot}={label} | {error:.3f} |" for (slot, label), error in sorted(j.errors.items())]
        title = "| swap | distillation error (variances of the layer's output) |\n|---|---|\n"
        parts.append(title + "\n".join(rows))
    body = shown_task(c.space.base).said("\n\n".join(filter(None, parts)))
    return f"# {c.space.name}: which proxy to trust\n\n{body}\n"


def _head(j: Assessment) -> str:
    c = j.calibration
    own = ", with a trained baseline for each" if c.baselines == PER_SEED else ""
    unit = "CPU" if c.full.device == "cpu" else "GPU"
    text = (
        f"{len(j.variants)} variants of {c.space.name} ({c.space.stock}), the baseline among them, on "
        f"{c.data or 'the demo data'} at {c.full.imgsz} px. Proxies: {c.seeds} seeds each{own}. Full training: "
        f"{c.full.epochs} epochs, {c.full_seeds} seeds, {j.full_minutes:.1f} {unit} minutes a run; its "
        f"mAP50-95 is that of the averaged weights ({FULL_SCORE}). Error, spread and resolution are in mAP50-95."
    )
    return f"{text}\n\n**{j.reason}**"


def _merit_table(j: Assessment) -> str:
    names = (
        "proxy", "score", "CPU min a run", "once", "error", "unpaired", "spread", "variance ratio [95 %]", "resolves",
        f"runs for {DIFFERENCE:g}", f"CPU min for {DIFFERENCE:g}", "Spearman, 1 run [95 %]", "mean of seeds", "Kendall",
        "top tenth", "top 3",
    )  # fmt: skip
    rows = [names, ("---",) * len(names)] + [_cells(m) for m in sorted(j.merits, key=lambda m: (m.proxy, m.score))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def full_training_words(j: Assessment) -> str:
    """Return how well full training agrees with itself; empty where it had one seed."""
    if not (j.full_merit and j.ceiling and j.attainable is not None):
        return ""
    f = j.full_merit
    why = "" if j.reference == FULL_SCORE else " (its mAP is too noisy: it hardly agrees between seeds)"
    agreement = with_interval(j.ceiling.spearman, j.ceiling.spearman_interval)
    return (
        f"Proxies are compared with this score of full training: {SCORES[j.reference].words}{why}. "
        f"Its error in one seed is {f.error:.4f}, its spread {f.spread:.4f} (variance ratio {f.ratio:.2f}). "
        f"One seed against another: Spearman {agreement}; a perfect proxy "
        f"could reach {j.attainable:.2f} against the mean of {j.calibration.full_seeds}."
    )


def agreement_table(j: Assessment) -> str:
    """Return how far the GFLOPs and each proxy agree with each kind of full training; empty if that is unknown."""
    if not j.rows:
        return ""
    tuned = (
        f" From trained weights it takes {j.calibration.tuned.epochs} epochs, {j.tuned_minutes:.1f} minutes a run."
        if j.calibration.tuned
        else ""
    )
    names = (
        "full training",
        "order by",
        "score",
        "Spearman, 1 run [95 %]",
        "Kendall",
        "Spearman at equal GFLOPs",
        "Kendall",
    )
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---|" * (len(names) - 1)]
    lines += ["| " + " | ".join([row.full.removeprefix("full training "), *_cost_cells(row)]) + " |" for row in j.rows]
    head = "Agreement with each kind of full training, and what is left of it at equal GFLOPs (partial correlations)."
    return f"{head}{tuned}\n\n" + "\n".join(lines)


def _cost_cells(row: CostRow) -> list[str]:
    a, p = row.agreement, row.partial
    own = [
        row.order, row.score or "–", with_interval(a.spearman, a.spearman_interval),
        with_interval(a.kendall, a.kendall_interval),
    ]  # fmt: skip
    if row.order == COST or p is None:
        return [*own, "–", "–"]
    pairs = ((p.spearman, p.spearman_interval), (p.kendall, p.kendall_interval))
    return [*own, *("–" if value != value else with_interval(value, interval) for value, interval in pairs)]


def _variant_table(j: Assessment) -> str:
    names = [name for name, _ in j.calibration.proxies]
    fulls = {"full": j.full, **({"from trained weights": j.tuned} if j.tuned is not None else {})}
    heads = [*(head for name in fulls for head in (f"{name}, each seed", "mean")), *(f"{n}: Δ" for n in names)]
    lines = ["| variant | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for i, variant in enumerate(j.variants):
        cells = [
            c for full in fulls.values() for c in (" ".join(_mean(x, ".4f") for x in full[i]), _mean(full[i], ".4f"))
        ]
        cells += [_mean(j.tables[n]["map"][i] - j.tables[n]["map"][0], "+.4f") for n in names]
        lines.append(f"| {variant.describe()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(values: np.ndarray, form: str) -> str:
    """Return the mean of the finite values; a dash if all runs failed."""
    there = np.atleast_1d(values)[~np.isnan(np.atleast_1d(values))]
    return format(float(there.mean()), form) if there.size else "–"


def _cells(m: ProxyMerit) -> list[str]:
    a = m.agreement
    return [
        m.proxy, m.score, f"{m.minutes:.2f}", f"{m.once_minutes:.1f}", f"{m.merit.error:.4f}",
        f"{m.merit.error_unpaired:.4f}", f"{m.merit.spread:.4f}", with_interval(m.merit.ratio, m.merit.ratio_interval),
        f"{m.merit.resolution():.4f}", f"{m.merit.seeds_for(DIFFERENCE):.2g}", f"{m.cost(DIFFERENCE):.3g}",
        with_interval(a.spearman, a.spearman_interval), f"{m.agreement_mean.spearman:.2f}", f"{a.kendall:.2f}",
        "–" if a.top_decile_kendall is None else f"{a.top_decile_kendall:.2f}", f"{a.top3_recall:.2f}",
    ]  # fmt: skip


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """Return a value with its interval in brackets, if it has one."""
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def write_report(j: Assessment, folder: Path) -> tuple[Path, ...]:
    """Write the result for ``nas search --proxy``, the Markdown report, and the plot.

    Raises:
        OutputError: They cannot be written.
    """
    calibrated, tables, picture = folder / RESULT_FILE, folder / "calibration.md", folder / "calibration.svg"
    names = [variant.describe() for variant in j.variants]
    best = [j.best(name) for name, _ in j.calibration.proxies]
    points = {m.label: panel_points(names, j.judged, j.tables[m.proxy][m.score]) for m in best}
    try:
        tables.write_text(to_markdown(j), encoding="utf-8")
        plot_calibration(
            picture, best, points, chosen=j.chosen.label, difference=DIFFERENCE, reference=SCORES[j.reference].words
        )
        calibrated.write_text(json.dumps(j.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from None
    return calibrated, tables, picture
