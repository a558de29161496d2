"""Ultralytics: how modules get into its models, its FLOP counter and its loader; building a model of a model YAML.

Nothing is written to site-packages. `register` takes the source of the installed ``parse_model``, inserts the rendered
branch before its anchor, and rebinds the function in memory, with the same result as editing the file by hand.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import BuildError, HeadError, HostError, escaped, one_line
from nas.fork.names import PLACED, yaml_name
from nas.fork.rows import unknown_module
from nas.model import host_input
from nas.model.host_input import constructing, read_config
from nas.model.render import ANCHOR, render_branch
from nas.ops import registry
from nas.task.task import task_of_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nas.space.model_yaml import ModelYaml

_MARK = "swapnas"
_pristine: tuple[Any, str] | None = None
"""The host's own parse_model and its source, kept at the first registration."""
_rebound: tuple[dict[str, type[nn.Module]], Any] | None = None
"""The classes registered so far by name, and the parse_model that knows them."""


def version() -> str:
    """Return the installed Ultralytics' version."""
    return str(importlib.import_module("ultralytics").__version__)


def register() -> None:
    """Register the modules with Ultralytics in this process: it builds, trains, loads and costs models with them.

    Idempotent: a later call adds modules that were registered since, and removes those that were dropped.

    Raises:
        HostError: The installed Ultralytics has no anchor for the branch, or has another class of a module's name.
    """
    global _pristine, _rebound
    tasks: Any = importlib.import_module("ultralytics.nn.tasks")
    if _pristine is None:
        stock = inspect.unwrap(tasks.parse_model)  # `nas.import_hook` may have wrapped it
        _pristine = (stock, parse_model_source(tasks))
    entries = {yaml_name(e.name): e for e in registry.entries().values() if not e.native}
    modules = {name: entry.cls for name, entry in entries.items()}
    before = _rebound[0] if _rebound else {}
    if _rebound and before == modules and tasks.parse_model is _rebound[1]:
        return
    for name, entry in entries.items():
        taken = getattr(tasks, name, entry.cls)
        if taken is not entry.cls and taken is not before.get(name):
            raise HostError(f"Ultralytics {version()} has a {name} of its own ({taken}): rename the registered module")
        _check_strings(entry, _pristine[0])
    text = patched_source(_pristine[1], render_branch(e.name for e in entries.values()))
    filename = f"<ultralytics {version()} parse_model with {_MARK} branch>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {}
    for name in before.keys() - modules.keys():  # dropped since: the name must be free again
        if getattr(tasks, name, None) is before[name]:
            delattr(tasks, name)
    for name, entry in entries.items():
        setattr(tasks, name, entry.cls)
    PLACED.clear()
    PLACED.update(modules)
    exec(compile(text, filename, "exec"), tasks.__dict__, scope)
    tasks.parse_model = scope["parse_model"]
    _rebound = (modules, tasks.parse_model)
    # A checkpoint of `nas.emit.pretrained` calls this; PyTorch's restricted loading must allow it.
    serialization: Any = importlib.import_module("torch.serialization")
    serialization.add_safe_globals([importlib.import_module("torch").nn.Module.load_state_dict])
    register_costs()
    allow_loading(modules.values())


def allow_loading(classes: Iterable[type[nn.Module]]) -> None:
    """Allow these classes in PyTorch's restricted loading of checkpoints (``ULTRALYTICS_SAFE_LOAD=1``).

    The other modules of their files, which they are built of, are allowed too.
    """
    from torch import nn, serialization

    files = {cls.__module__ for cls in classes} | {name for name in sys.modules if name.startswith("nas.ops.")}
    parts = [part for name in files & set(sys.modules) for part in vars(sys.modules[name]).values()]
    found = {part for part in parts if isinstance(part, type) and issubclass(part, nn.Module)}
    serialization.add_safe_globals([part for part in found if part.__module__ in files])


def parse_model_source(tasks: Any) -> str:
    """Return the source of the installed parse_model.

    Raises:
        HostError: It cannot be read.
    """
    try:
        return inspect.getsource(tasks.parse_model)
    except (OSError, TypeError, AttributeError) as error:
        raise HostError(f"cannot read the source of parse_model of Ultralytics {version()}: {error}") from None


def patched_source(source: str, branch: str) -> str:
    """Return the source of parse_model with a rendered branch before the anchor.

    Raises:
        HostError: The anchor is not there exactly once; the message names it.
    """
    found = source.count(ANCHOR)
    if found != 1:
        raise HostError(
            f"Ultralytics {version()}: the anchor {ANCHOR.strip()!r} occurs {found} times in parse_model, not once; "
            "releases from 8.3.0 on are supported"
        )
    return source.replace(ANCHOR, branch + ANCHOR)


def _check_strings(entry: registry.Entry, parse_model: Any) -> None:
    """Refuse argument values that parse_model would mistake for one of its own variables."""
    local = set(parse_model.__code__.co_varnames) | set(parse_model.__code__.co_cellvars)
    for arg in entry.args.values():
        for option in arg.options:
            if option in local:
                raise HostError(
                    f"{entry.name}: the value {option!r} of {arg.name} is a variable of Ultralytics' parse_model, "
                    "which would put its own value there: rename it"
                )


def register_costs() -> None:
    """Register every module's MACs with the host's FLOP counter, so that its own summary is right."""
    hooks = _counter_hooks()
    for cls, rule in registry.macs_rules().items():
        hooks[cls] = _hook(rule)


def unregister_costs() -> None:
    """Remove the MACs of registered modules again, to compute what the stock counter would count."""
    hooks = _counter_hooks()
    for cls in registry.macs_rules():
        hooks.pop(cls, None)


def _counter_hooks() -> dict[Any, Any]:
    """Return the counter's table of rules by class."""
    importlib.import_module("nas.ops.families")  # states all rules
    importlib.import_module("thop")  # whose attribute `profile` is a function that hides the module
    hooks: dict[Any, Any] = sys.modules["thop.profile"].__dict__["register_hooks"]
    return hooks


def _hook(rule: registry.MacsRule) -> Any:
    """Return a rule in the form that the host's counter calls."""

    def count(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        module.total_ops += rule(module, inputs, output)

    return count


def build(yaml_text: str, scale: str, nc: int | None = None, kpt_shape: Sequence[int] | None = None) -> nn.Module:
    """Build a model from the text of a model YAML, in evaluation mode, on the CPU.

    Args:
        yaml_text: What `nas.model.render` wrote.
        scale: Scale letter.
        nc: Number of classes; the YAML's if None.
        kpt_shape: Of poses, the number of key points and of values of each; the YAML's if None.

    Raises:
        BuildError: It cannot be built; the message contains the host's error.
    """
    register()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    config = read_config(yaml_text, tasks)
    config["scale"] = scale
    if kpt_shape:
        config["kpt_shape"] = list(kpt_shape)
    task = task_of_model(config)
    try:
        with constructing(tasks):
            model: nn.Module = getattr(tasks, task.model)(config, ch=3, nc=nc, verbose=False)
    except Exception as error:  # any error of a module's constructor or forward is the variant's failure
        absent = unknown_module(str(error.args[0])) if isinstance(error, KeyError) and error.args else ""
        missing = _without_arguments(config) if isinstance(error, IndexError) else ""
        raise BuildError(f"cannot be built: {absent or one_line(error)}{missing}") from error
    return model.eval()


def _without_arguments(config: dict[str, Any]) -> str:
    """Return what parse_model, which takes the first of no arguments, misses in a model YAML; empty for nothing."""
    bare = sorted({row[2] for row in (*config["backbone"], *config["head"]) if not row[3]})
    if not bare:
        return ""
    return f": {', '.join(bare)} without arguments; most classes take their output channels first"


def check_head(model: Any, baseline: Any) -> None:
    """Raise HeadError if a model with another layer has another head than the baseline has.

    Ultralytics builds the heads of YOLOv3 to v9 in the form of YOLO11's once a row is a C3k2 or an A2C2f.
    """
    mine, theirs = ({k: v.shape for k, v in one.model[-1].state_dict().items()} for one in (model, baseline))
    if mine != theirs:
        name = type(baseline.model[-1]).__name__
        raise HeadError(f"cannot be compared: with it Ultralytics builds another {name}, which no trained weights fit")


def check_yaml(yaml_text: str) -> None:
    """Raise BuildError unless a model YAML is one that `build` would give to Ultralytics; nothing is built."""
    register()
    if escaped(yaml_text) != yaml_text:
        raise BuildError("cannot be built: the model YAML has control characters")
    read_config(yaml_text, importlib.import_module("ultralytics.nn.tasks"))


def check_size(yaml_text: str, scale: str) -> None:
    """Raise BuildError if a model of a YAML is too large to be built."""
    register()
    host_input.check_size(yaml_text, scale, importlib.import_module("ultralytics.nn.tasks"))


def chosen_scale(path: Path, model: ModelYaml, given: str | None = None) -> tuple[str, str]:
    """Return the scale letter of a model YAML, and a word where its file name says none.

    Ultralytics reads the letter from the file name, and takes the first scale of the file where there is none.

    Args:
        path: The file.
        model: Its content.
        given: The letter that a user chose; None for that of the file.

    Raises:
        BuildError: It does not have this scale.
    """
    letters = tuple(model.scales)
    if given is not None:
        if given not in letters:
            has = f"its scales: {', '.join(letters)}" if letters else "it has one size: leave the scale out"
            raise BuildError(f"{path} has no scale {given!r}; {has}")
        return given, ""
    letter = str(importlib.import_module("ultralytics.nn.tasks").guess_model_scale(path))
    if letter in letters or not letters:
        return letter, ""
    if letter:
        raise BuildError(
            f"the file name {path.name} gives the scale {letter!r}, expected one of {', '.join(letters)}, as in "
            f"yolov8{letters[0]}-name.yaml; --scale chooses another"
        )
    word = f"{path}: no scale letter in the file's name: its first, {letters[0]}, as Ultralytics does; --scale chooses"
    return letters[0], word if len(letters) > 1 else ""
