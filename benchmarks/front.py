"""The front of a data set: at each budget the best variant, against the baseline and against the pruned baseline.

    python benchmarks/front.py bccd/data.yaml --out bccd.json
    python benchmarks/front.py demo --out demo.json --trials 40 -- --workers 2
    python benchmarks/front.py --table bccd.json raccoon.json demo.json

Searches a space for the budgets (`nas search --budget-gflops`), which confirms the first of the ranking with further
seeds and trains the yardstick of every budget under the same seeds, and prints a table with both verdicts. Options
after `--` go to `nas search`.
Everything is stored in a study below the current folder: start the same command again to resume one that was stopped.

A variant stands for a budget if it costs at most that and is compared with the budget's yardstick (which is within 5 %
of its GFLOPs); of several the one with the most seeds, then the highest mAP50-95. That choice is by the same scores as
its verdicts, so the verdicts against the yardstick are corrected for all variants that are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEAD = (
    "data", "budget", "model", "GFLOPs", "Δ%", "mAP50-95", "n", "Δ baseline", "verdict", "Δ yardstick", "verdict",
)  # fmt: skip
Row = dict[str, Any]


def search_command(options: argparse.Namespace) -> list[str]:
    """Return the command that searches, or resumes the search."""
    data = [] if options.data == "demo" else ["--data", options.data]
    # Without a number of trials, a search that was stopped is completed, and a complete one does nothing.
    new = not (Path("studies") / f"{options.study}.db").exists()
    return [
        *(
            "search",
            options.space,
            *data,
            "--study",
            options.study,
            *(("--trials", str(options.trials)) if new else ()),
        ),
        *("--objective", "map,gflops", "--confirm", f"{options.top}:{options.seeds}"),
        "--budget-gflops=" + ",".join(f"-{budget:g}%" for budget in options.budgets),
        *options.more,
    ]


def nas(*arguments: str, quiet: bool = False) -> str:
    """Run a command of this package, and return what it prints."""
    done = subprocess.run([sys.executable, "-m", "nas", *arguments], text=True, check=True, stdout=subprocess.PIPE)
    if not quiet:
        print(done.stdout, flush=True)
    return done.stdout


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Search, and return the ranking with its yardsticks and the seconds that all runs of this program took."""
    before = json.loads(options.out.read_text()) if options.out.exists() else {}
    started = time.monotonic()
    try:
        nas(*search_command(options))
    finally:  # a run that is stopped or fails counts too
        seconds = round(before.get("seconds", 0.0) + time.monotonic() - started, 1)
        options.out.write_text(json.dumps({**before, "seconds": seconds}))
    everything = json.loads(nas("rank", options.study, "--json", quiet=True))
    of_yardsticks = {key: everything[key] for key in ("yardsticks", "against_yardsticks") if key in everything}
    ranking = {"rows": everything["rows"], **of_yardsticks}
    name = "demo" if options.data == "demo" else Path(options.data).resolve().parent.name
    return {"data": name, "budgets": options.budgets, "seconds": seconds, "ranking": ranking}


def best_within(budget: float, base: Row, ranking: Row) -> tuple[Row | None, Row | None]:
    """Return the yardstick of a budget, and the variant that stands for it; None for what is missing.

    Args:
        budget: Percent of the baseline's GFLOPs that are saved.
        base: The baseline's row.
        ranking: As `nas rank --json`.
    """
    most = base["gflops"] * (1 - budget / 100)
    within = [y for y in ranking.get("yardsticks", ()) if y["gflops"] <= most]
    yardstick = max(within, key=lambda y: y["gflops"], default=None)
    against = ranking.get("against_yardsticks", {})
    rivals = [
        row
        for row in ranking["rows"]
        if row["gflops"] <= most and yardstick and against.get(row["id"], {}).get("id") == yardstick["id"]
    ]
    return yardstick, max(rivals, key=lambda row: (row["seeds"], row["map50_95"]), default=None)


def table(bodies: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, and under it what each data set took."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    notes = []
    for body in bodies:
        ranking = body["ranking"]
        base = next(row for row in ranking["rows"] if row["verdict"] == "baseline")
        lines.append(_line(body["data"], "", "baseline", base, base, None))
        for budget in body["budgets"]:
            words = f"-{budget:g} %"
            yardstick, variant = best_within(budget, base, ranking)
            if yardstick is None:
                notes.append(f"{body['data']}, {words}: no yardstick")
                continue
            lines.append(_line(body["data"], words, f"yardstick, width {yardstick['width']:g}", yardstick, base, None))
            if variant is None:
                notes.append(f"{body['data']}, {words}: no variant within the budget is near its yardstick")
                continue
            against = ranking["against_yardsticks"][variant["id"]]
            lines.append(_line(body["data"], words, variant["id"], variant, base, against))
            notes.append(f"{body['data']}, {words}: {variant['id']} is {variant['swaps']}")
        notes.append(f"{body['data']}: {body['seconds'] / 60:.0f} minutes")
    return [*lines, "", *notes]


def _line(data: str, budget: str, name: str, row: Row, base: Row, against: Row | None) -> str:
    interval = row["interval"] if "interval" in row else (row["interval_low"], row["interval_high"])
    is_base = row is base
    cells = [
        data,
        budget,
        name,
        f"{row['gflops']:.2f}",
        "" if is_base else f"{100 * (row['gflops'] / base['gflops'] - 1):+.1f}",
        f"{row['map50_95']:.3f}",
        str(row["seeds"]),
        "" if is_base else _within(row["delta_map50_95"], interval),
        "" if is_base else row["verdict"] if row["seeds"] > 1 else "1 seed",
        _within(against["delta_map50_95"], against["interval"]) if against else "",
        against["verdict"] if against else "",
    ]
    return f"| {' | '.join(cells)} |"


def _within(delta: float | None, interval: Any) -> str:
    if delta is None:
        return ""
    known = interval and interval[0] is not None
    return f"{delta:+.4f}" + (f" ±{(interval[1] - interval[0]) / 2:.4f}" if known else "")


def main(arguments: list[str] | None = None) -> None:
    """Measure one data set, or print the table of several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="a data.yaml, or demo")
    parser.add_argument("--space", default="slim")
    parser.add_argument("--budgets", type=float, nargs="+", default=[10, 20, 30, 40], help="percent that are saved")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top", type=int, default=8, help="variants that are confirmed")
    parser.add_argument("--study", help="name of the study; default: front-SPACE-DATA")
    parser.add_argument("--out", type=Path, default=Path("front.json"))
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table of these files")
    given = sys.argv[1:] if arguments is None else arguments
    own, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = parser.parse_args(own)
    options.more = more
    if options.table:
        return print("\n".join(table([json.loads(file.read_text()) for file in options.table])))
    if not options.data:
        parser.error("give a data.yaml, or demo")
    name = "demo" if options.data == "demo" else Path(options.data).resolve().parent.name
    options.study = options.study or f"front-{Path(options.space).stem}-{name}"
    body = measure(options)
    options.out.write_text(json.dumps(body, indent=1))
    print("\n".join(table([body])))
    return None


if __name__ == "__main__":
    main()
