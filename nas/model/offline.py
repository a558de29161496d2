"""Keeps the host offline: no network access, no writing outside the tool's own cache.

This has to happen before Ultralytics is imported, so nothing here imports it, or anything that does.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from nas.errors import HostError
from nas.files import cache_dir, write_atomic


def offline_environment(cache: Path) -> dict[str, str]:
    """Return environment variables under which Ultralytics makes no network access, writes only below `cache`.

    They must be set before Ultralytics is imported.
    """
    return {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": os.environ.get("YOLO_CONFIG_DIR") or str(cache / "host"),
        "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
        "WANDB_MODE": "disabled",
    }


def set_offline() -> Path:
    """Set `offline_environment` for this process and those that it starts, and return the cache folder."""
    cache = cache_dir()
    os.environ.update(offline_environment(cache))
    return cache


def go_offline(cache: Path) -> None:
    """Set `offline_environment` for this process, and provide the font that the host would download.

    Raises:
        HostError: The folder cannot be written.
    """
    os.environ.update(offline_environment(cache))
    config = Path(os.environ["YOLO_CONFIG_DIR"])
    # Ultralytics before 8.3.196 looks in the folder itself.
    missing = [font for font in (config / "Ultralytics" / "Arial.ttf", config / "Arial.ttf") if not font.exists()]
    if not missing:
        return
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return
    own = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    try:
        for font in missing:
            write_atomic(font, own.read_bytes())
    except OSError as error:
        raise HostError(
            f"cannot write {missing[0]}: {error}; set NAS_CACHE or YOLO_CONFIG_DIR to a folder that can be"
        ) from None
