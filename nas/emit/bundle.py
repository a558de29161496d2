"""A variant as a folder that needs neither this package nor a patched Ultralytics."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nas.emit.forms import Emission, Texts
from nas.emit.standalone import standalone_source
from nas.errors import OutputError
from nas.fork.names import yaml_name
from nas.model.render import ANCHOR, ModelFiles, count_swaps, environment, render_branch
from nas.space.bases import task_of_base
from nas.space.graph import with_letter
from nas.space.variant import Variant
from nas.version import __version__

_BUILD = """
import sys, importlib
sys.path.insert(0, ".")
importlib.import_module(sys.argv[1])
from ultralytics import YOLO
YOLO(sys.argv[2], task=sys.argv[3])
found = sorted(m for m in sys.modules if m == "nas" or m.startswith("nas."))
assert not found, f"{found} imported"
"""


def bundle_form(emission: Emission) -> Texts:
    """Return a folder that trains the variant without this package; a subprocess has built the model from it.

    Raises:
        OutputError: The variant needs no bundle, or the model cannot be built from it.
    """
    files, weights = emission.files, emission.weights
    parts = bundle_files(emission.variant, files, weights.name if weights else None)
    verify_bundle(parts, files, task_of_base(emission.variant.base).host_name)
    texts: Texts = {Path(files.name) / name: text for name, text in parts.items()}
    return texts | ({Path(files.name) / weights.name: weights.content} if weights else {})


def bundle_files(
    variant: Variant, files: ModelFiles, weights: str | None = None, *, trained: bool = False
) -> dict[str, str]:
    """Return the files of a bundle by name: model YAML, one module file, training script, requirements, README.

    Args:
        variant: The variant, with a swap at least.
        files: Its rendered files; the model YAML is taken as it is.
        weights: Name of a checkpoint in the same folder, if there is one.
        trained: Whether that is a trained model.

    Raises:
        OutputError: The variant has no modules that Ultralytics has not, and needs no bundle.
    """
    modules = variant.added
    if not modules:
        what = "is the stock model" if variant.is_baseline else "is made of Ultralytics' own modules"
        raise OutputError(f"{files.name} {what}: it needs no bundle; --form yaml writes its model YAML")
    graph = variant.graph()
    context = {
        "name": files.name,
        "task": task_of_base(variant.base),
        "module": module_name(files),
        "names": ", ".join(modules),
        "classes": ", ".join(f'"{yaml_name(m)}": {m}' for m in modules),
        "title": with_letter(graph.title, variant.scale),
        "version": __version__,
        "weights": weights,
        "trained": trained,
        "weights_option": f" --weights {weights}" if weights else "",
        "swaps": variant.swaps,
        "summary_of_swaps": count_swaps(variant),
        "source": standalone_source(modules).rstrip(),
        "branch": render_branch(modules),
        "anchor": ANCHOR.rstrip("\n"),
    }

    def text(template: str) -> str:
        return environment().get_template(template).render(context)

    return {
        f"{files.name}.yaml": files.yaml,
        f"{module_name(files)}.py": text("bundle_module.py.j2"),
        "train.py": text("bundle_train.py.j2"),
        "requirements.txt": text("bundle_requirements.txt.j2"),
        "README.md": text("bundle_readme.md.j2"),
    }


def module_name(files: ModelFiles) -> str:
    """Return the import name of a bundle's module file; checkpoints hold it."""
    return f"{files.name.replace('-', '_')}_modules"


def verify_bundle(texts: Mapping[str, str], files: ModelFiles, task: str) -> None:
    """Build a bundle's model in a subprocess that imports nothing of this package.

    Raises:
        OutputError: It cannot be built; the message has the last line of that process's output.
    """
    with tempfile.TemporaryDirectory(prefix="nas-bundle-") as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="\n")
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, module_name(files), f"{files.name}.yaml", task],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise OutputError(f"the bundle of {files.name} cannot be built by itself: {said}")
