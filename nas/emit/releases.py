"""Releases of Ultralytics: which are supported, and how one is fetched as a source tree without being installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nas.errors import HostError

OLDEST, NEWEST = (8, 0, 100), (8, 4, 190)
"""Releases between which the anchors were checked; later ones work as long as they have them."""

STAND_INS = {
    "pkg_resources.py": """
def parse_version(text):
    return tuple(int(p) for p in text.split("+")[0].split(".") if p.isdigit())
def parse_requirements(lines):
    return []
def require(name):
    return []
class DistributionNotFound(Exception):
    pass
class VersionConflict(Exception):
    pass
""",
    "pandas.py": "class DataFrame:\n    pass\nclass Series:\n    pass\n",
    "seaborn.py": "",
}
"""What old releases import at once and building a model does not use, by file name; for where it is not installed."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return the numbers of a release such as ``8.3.0``; None if the text is not one."""
    found = _VERSION.fullmatch(text.strip())
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def version_text(version: tuple[int, ...]) -> str:
    """Return a release as it is written, such as ``8.3.0``."""
    return ".".join(map(str, version))


def nearest(version: tuple[int, ...]) -> str:
    """Return the nearest release that is known to be supported."""
    return version_text(min(max(version, OLDEST), NEWEST))


def release_tree(text: str, cache: Path) -> Path:
    """Return the source tree of a release: from the cache, or fetched with pip once and unpacked there.

    Nothing is installed and nothing of the release is run.

    Args:
        text: The release, such as ``8.3.0``.
        cache: The tool's cache folder.

    Returns:
        The folder that holds ``ultralytics``. It is kept for later runs: do not edit it.

    Raises:
        HostError: The release is too old, does not exist, or cannot be fetched.
    """
    version = parse_version(text)
    if version is None:
        raise HostError(f"{text!r} is no release of Ultralytics: expected three numbers, such as 8.3.0")
    name = version_text(version)
    if version < OLDEST:
        raise HostError(f"Ultralytics {name}: {version_text(OLDEST)} is the oldest release that can be patched")
    root = cache / "ultralytics" / name
    if (root / "ultralytics/nn/tasks.py").is_file():
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root.parent) as folder:
            _download(name, Path(folder))
            _unpack(name, Path(folder), root)
    except OSError as error:
        raise HostError(
            f"cannot keep Ultralytics {name} in {root}: {error}; set NAS_CACHE to a folder that can be written"
        ) from None
    return root


def _download(name: str, folder: Path) -> None:
    """Let pip fetch a release's wheel into a folder; it knows the user's index and proxy."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "download", *options, "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "-d", str(folder), f"ultralytics=={name}"], capture_output=True, text=True)
    if not done.returncode:
        return
    own = "; --ultralytics PATH takes a checkout or package folder that is there"
    listed = re.search(r"\(from versions: ([^)]*)\)", done.stderr)
    offered = [v for text in (listed[1] if listed else "").split(",") if (v := parse_version(text)) and v >= OLDEST]
    wanted = parse_version(name)
    if offered and wanted and wanted not in offered:
        below, above = (sorted(v for v in offered if (v > wanted) == later) for later in (False, True))
        around = ", ".join(map(version_text, (*below[-1:], *above[:1])))
        raise HostError(f"pip knows no release {name} of Ultralytics; nearest: {around}")
    if "No module named pip" in done.stderr:
        raise HostError(f"cannot fetch Ultralytics {name}: this Python has no pip{own}")
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1].removeprefix("ERROR: ")
    raise HostError(f"cannot fetch Ultralytics {name} with pip: {said}{own}")


def _unpack(name: str, folder: Path, root: Path) -> None:
    """Unpack the fetched wheel beside its place, then move it there whole: several processes may fetch at once."""
    wheels = list(folder.glob("ultralytics-*.whl"))
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder / "tree")
    except (IndexError, zipfile.BadZipFile) as error:
        raise HostError(f"pip fetched no wheel of Ultralytics {name} that can be unpacked: {error}") from None
    try:
        (folder / "tree").rename(root)
    except OSError:
        if not (root / "ultralytics/nn/tasks.py").is_file():  # not put there by another process meanwhile
            shutil.rmtree(root)
            (folder / "tree").rename(root)
