"""Trained weights of the stock model, where users have them: in the working folder, or where the host keeps weights."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def find_weights(base: str, scale: str) -> tuple[Path, str] | None:
    """Return the file of weights of a stock model, such as yolov8n.pt, and why it cannot be used; None without one.

    It is not the user who names the file, so nothing in it is run: one that does not load so cannot be used.
    """
    for folder in (Path.cwd(), *_host_folders()):
        file = folder / f"{base}{scale}.pt"
        if file.is_file():
            from nas.model.weights_file import weights_problem

            return file.resolve(), weights_problem(str(file), base, scale)
    return None


def _host_folders() -> list[Path]:
    """Return the folder in which the user's Ultralytics keeps weights, if its settings name one."""
    home = Path.home()
    if sys.platform == "win32":
        configs = home / "AppData" / "Roaming"
    elif sys.platform == "darwin":
        configs = home / "Library" / "Application Support"
    else:
        configs = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    for folder in dict.fromkeys((Path(os.environ.get("YOLO_CONFIG_DIR") or configs), configs)):
        try:
            return [Path(json.loads((folder / "Ultralytics" / "settings.json").read_text("utf-8"))["weights_dir"])]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # missing, or not as the host writes it
            continue
    return []
