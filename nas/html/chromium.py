"""Pictures of a page's sections, drawn by an installed Chromium: no other program draws what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nas.errors import OutputError, one_line

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_WIDTH = 1120
_TIMEOUT_S = 120
_HEIGHT = re.compile(r'<section id="([\w-]+)"[^>]*data-height="(\d+)"')


def find_chromium() -> str | None:
    """Return the path of Chromium, or of a browser that is built on it: ``NAS_CHROMIUM``, or what is on the path."""
    given = os.environ.get("NAS_CHROMIUM")
    return shutil.which(given) if given else next((path for name in _NAMES if (path := shutil.which(name))), None)


def pictures(page: str, sections: Sequence[str]) -> dict[str, bytes]:
    """Return a PNG of each section, by its ID; 2,240 pixels wide.

    Raises:
        OutputError: No Chromium is found, or it fails.
    """
    browser = find_chromium()
    if browser is None:
        raise OutputError(
            "--format png needs Chromium or Chrome, and none is found: install it (Debian: apt install chromium), or "
            "set NAS_CHROMIUM to its path; the HTML report has a button that saves each figure"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        heights = dict(_HEIGHT.findall(_run(browser, folder, f"{file.as_uri()}#theme=light", "--dump-dom")))
        if missing := [section for section in sections if section not in heights]:
            raise OutputError(f"{browser} did not draw the page: no section {missing[0]}")
        found = {}
        for section in sections:
            picture = Path(folder) / f"{section}.png"
            size = f"--window-size={_WIDTH},{int(heights[section]) + 24}"
            options = (size, "--force-device-scale-factor=2", f"--screenshot={picture}")
            _run(browser, folder, f"{file.as_uri()}#theme=light&only={section}", *options)
            try:
                found[section] = picture.read_bytes()
            except OSError as error:
                raise OutputError(f"{browser} wrote no picture of {section}: {error.strerror}") from None
        return found


def _run(browser: str, folder: str, url: str, *options: str) -> str:
    """Run Chromium without a window, and return what it prints.

    Raises:
        OutputError: It fails.
    """
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # as root it refuses to start with one
    quiet = ["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"]
    profile = [f"--user-data-dir={folder}/profile", "--virtual-time-budget=10000", f"--window-size={_WIDTH},900"]
    try:
        done = subprocess.run(
            [browser, *root, *quiet, *profile, *options, url], capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"cannot run {browser}: {one_line(error)}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OutputError(f"{browser} failed with exit code {done.returncode}: {said[-1] if said else 'no message'}")
    return done.stdout.decode("utf-8", "replace")
