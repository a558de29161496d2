"""What `nas report` takes by the number of trials: seconds, size, and the time until a browser has painted the page.

    python benchmarks/report.py --trials 100 1000

Makes studies of distinct variants with synthetic scores, in which nothing is trained (benchmarks/reading.py), writes
the report of each by the command, imports included, and opens it in Chromium, if Playwright and one are installed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reading import make_study

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
LIMITS = "under 10 s, under 8 MB, painted under 2 s at 1,000 trials"


def painted_s(page: Path) -> tuple[float, float] | None:
    """Return when the text is painted, and when all figures are drawn, in seconds; None without a browser."""
    from nas.html.chromium import find_chromium

    browser = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if browser is None:
        return None
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = running.new_page()
        started = time.monotonic()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
        drawn = time.monotonic() - started
        return float(tab.evaluate(PAINTED)), drawn


def main() -> None:
    """Make the studies, report them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--space", default="seeds")
    options = parser.parse_args()
    print(f"aims: {LIMITS}\n")
    print(f"{'trials':>8}  {'CPU s':>6}  {'wall s':>6}  {'MB':>6}  {'painted, s':>10}  {'drawn, s':>8}")
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as folder:
            make_study(options.space, trials, Path(folder))
            page = Path(folder) / "report.html"
            command = [sys.executable, "-m", "nas", "report", "made", "-o", str(page)]
            started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
            seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seen = painted_s(page)
            shown = ("–", "–") if seen is None else tuple(f"{value:.2f}" for value in seen)
            size = page.stat().st_size / 1e6
            print(f"{trials:>8}  {cpu:>6.2f}  {seconds:>6.2f}  {size:>6.2f}  {shown[0]:>10}  {shown[1]:>8}", flush=True)


if __name__ == "__main__":
    main()
