"""Draw the pictures of a report and of optuna-dashboard that the README and the docs show.

    nas search                                                      # the demo; it writes studies/quick.db
    python benchmarks/report_pictures.py --pack studies/quick.db    # commit that study
    python benchmarks/report_pictures.py                            # draw the pictures from it

Needs Playwright and an installed Chromium; the last picture needs optuna-dashboard too, and is kept as it is without.
Each picture's metadata hold the SHA-256 of the study, so that a test can see whether the two belong together.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "studies" / "results" / "demo" / "quick.db.xz"
PICTURES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1180, 960
"""Of a picture, in pixels."""
TO_THE_END = """(line) => {
  for (let box = line; box; box = box.parentElement) {
    if (getComputedStyle(box).overflowY === "auto") { box.scrollTop = box.scrollHeight; return; }
  }
}"""
"""The dashboard shows the attributes of a trial in a box that scrolls."""


def pack(database: Path) -> None:
    """Write a study as one small file, without the name of the machine that made it and its folder of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            for key, text in target.execute("SELECT key, value_json FROM study_user_attributes").fetchall():
                moved = re.sub(r'[^"\\]*/(demo_weights\.pt)', r"\1", text)
                target.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = ?", (moved, key))
            owners = "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes WHERE key = 'owner'"
            for number, text in target.execute(owners).fetchall():
                nameless = re.sub(r'"[^"]*-(\w+)"', r'"machine-\1"', text)
                change = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?"
                target.execute(change, (nameless, number))
            target.commit()
            target.execute("PRAGMA journal_mode = DELETE")
            target.execute("VACUUM")
        STUDY.parent.mkdir(parents=True, exist_ok=True)
        STUDY.write_bytes(lzma.compress(copy.read_bytes(), preset=9))
    print(f"{STUDY}: {STUDY.stat().st_size} bytes")


def save(name: str, picture: bytes) -> None:
    """Write a picture with the digest of the study that it shows."""
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    about.add_text("study", hashlib.sha256(STUDY.read_bytes()).hexdigest())
    file = PICTURES / name
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").save(file, "PNG", optimize=True, pnginfo=about)
    print(f"{file}: {file.stat().st_size} bytes")


def draw_report(browser: Any, page: Path) -> None:
    """Draw the top of a report, and its front in the dark theme."""
    for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
        if scheme == "dark":
            tab.evaluate("document.getElementById('front').scrollIntoView()")
        save(name, tab.screenshot())
        tab.close()


def draw_sections(page: Path) -> None:
    """Draw sections of a report as `nas report --format png` does, at half the size."""
    from PIL import Image

    from nas.html.chromium import pictures

    for key, content in pictures(page.read_text(encoding="utf-8"), ["forest", "bank"]).items():
        with Image.open(io.BytesIO(content)) as image:
            small = io.BytesIO()
            image.convert("RGB").resize((image.width // 2, image.height // 2)).save(small, "PNG")
        save(f"demo-{key}.png", small.getvalue())


def draw_dashboard(browser: Any, folder: Path) -> None:
    """Draw what optuna-dashboard shows of the best trial."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, "--port", port, "sqlite:///studies/quick.db"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.2)
        tab = browser.new_page(viewport={"width": WIDTH, "height": 780})
        tab.goto(f"http://127.0.0.1:{port}/dashboard/studies/1/trials")
        tab.click("text=Best Trial", timeout=60_000)
        tab.locator("p", has_text="swaps ").last.evaluate(TO_THE_END)
        tab.mouse.move(0, 0)
        time.sleep(1)
        save("dashboard.png", tab.screenshot())
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Pack a study, or draw the pictures."""
    from playwright.sync_api import sync_playwright

    from nas.html.chromium import find_chromium

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="DB", help="the study's database; nothing is drawn")
    options = parser.parse_args()
    if options.pack:
        pack(options.pack)
        return
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place)
        (folder / "studies").mkdir()
        (folder / "studies" / "quick.db").write_bytes(lzma.decompress(STUDY.read_bytes()))
        subprocess.run([sys.executable, "-m", "nas", "report", "quick", "-o", "report.html"], check=True, cwd=folder)
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        draw_report(browser, folder / "report.html")
        draw_sections(folder / "report.html")
        if find_spec("optuna_dashboard"):
            draw_dashboard(browser, folder)
        browser.close()


if __name__ == "__main__":
    main()
