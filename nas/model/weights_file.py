"""Reads the tensors of a ``.pt`` file without running any code of it.

A file of tensors alone is read by `torch.load(weights_only=True)`. An Ultralytics checkpoint pickles its model, and
unpickling can run whatever a file names. So classes and functions are not looked up at all: each becomes a placeholder
that only keeps what it is given, and the tensors are taken out of the placeholders of the modules, as `state_dict`
would. That needs neither trust nor the classes: a fork's checkpoint is read without the fork.

What is looked up is this: PyTorch's functions that make a tensor or parameter of a storage, its dtypes and sizes, and
`collections.OrderedDict`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import _utils

from nas.errors import ProxyError, WeightsError, one_line
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state
from nas.space.bases import load_base, task_of_base
from nas.space.graph import with_letter
from nas.space.variant import Variant
from nas.task.task import DETECT, Task

LEAST_SHARED = 0.8
"""Minimum share of the baseline's tensors that a file of initial weights has to hold; the class head may differ."""

_OF_OTHER_TASKS = (":cv4.", ":proto.")
"""Parts of the names of tensors that heads of some tasks have, and others have not."""
_OF_MODEL = ("nc", "scales", "kpt_shape", "activation", "end2end", "reg_max", "backbone", "head")
_DEEPEST = 100
_NO_MODEL = "{} holds no model: expected an Ultralytics checkpoint, or tensors by name"
_INSIDE = ("ema", "model", "state_dict", "model_state_dict")
"""Where training scripts put a model's tensors, beside the epoch and the like; the first one that has any counts."""
_SCRIPT = "it is a TorchScript archive; give the .pt that it was exported from"
_NUMBERED = re.compile(r"model\.\d{1,6}\..+")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and what it says about its model.

    Attributes:
        tensors: As of `torch.nn.Module.state_dict`; float32 where they are floating point.
        layers: Number of layers of its model; 0 if it holds tensors alone.
        names: Class names by index; empty if it has none.
        origin: Name and scale of its model, for messages; empty if it has none.
        kpt_shape: Of poses, the number of key points and of values of each; empty if it does not say.
        config: Its model's YAML as values; empty if it has none, or one that is no plain data.
        scale: The scale letter in that.
    """

    tensors: Mapping[str, torch.Tensor]
    layers: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    origin: str = ""
    kpt_shape: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    scale: str = ""

    @property
    def is_numbered(self) -> bool:
        """Whether its tensors are named by the numbers of their layers, as in Ultralytics' models."""
        return bool(self.tensors) and all(_NUMBERED.fullmatch(key) for key in self.tensors)

    @property
    def layer_count(self) -> int:
        """Number of layers of its model, by its tensors if it does not say; of numbered tensors."""
        return self.layers or 1 + max(int(key.split(".")[1]) for key in self.tensors)


def read_checkpoint(path: Path, *, part: bool = False) -> Checkpoint:
    """Read the tensors of a file: of an Ultralytics checkpoint those of its model (the averaged one if it has both).

    Args:
        path: The file.
        part: It may be of a layer, which may have no tensors, as ``nn.Identity``.

    Raises:
        WeightsError: It is missing, no checkpoint, or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is no file; weights are never downloaded: give the path of an existing .pt")
    why = _not_a_checkpoint(path)
    content = None
    with contextlib.suppress(Exception):  # it holds classes, or is damaged: what follows says which
        if why != _SCRIPT:
            content = torch.load(path, map_location="cpu", weights_only=True)
    if content is not None:
        if not (tensors := _of_tensors(content)) and not (part and content == {}):
            raise WeightsError(_NO_MODEL.format(path))
        return Checkpoint(tensors)
    if why:
        raise WeightsError(f"{path} is no checkpoint that can be read: {why}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PLACEHOLDERS)
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(f"{path} is no checkpoint that can be read: {one_line(error)}") from None
    return _of_model(path, content)


def weights_problem(path: str, base: str, scale: str) -> str:
    """Return why the baseline cannot start from a file of weights; empty if it can."""
    try:
        given = read_state(path, base)
    except (ProxyError, WeightsError) as error:
        return str(error)
    own = named_state(build(render(Variant(base, scale)).yaml, scale).state_dict(), load_base(base))
    return misfit(given, own, with_letter(base, scale), task_of_base(base))


def misfit(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], model: str, task: Task = DETECT) -> str:
    """Return why tensors cannot be the initial weights of a baseline, and what would do; empty if they can.

    Those of a detection model can be of any task: its head then starts from what both heads have, boxes and classes.

    Args:
        given: Tensors of a file, by layer name.
        own: Those of the baseline.
        model: Its base and scale.
        task: Its task.
    """
    would = f"give a .pt of {model} that was trained for {task.words}"
    if not given:
        return f"it holds no tensor that can be read without running its code; {would}, or its state_dict alone"
    if any(part in key for key in given.keys() - own.keys() for part in _OF_OTHER_TASKS):
        has_not = "a detector has not" if task is DETECT else f"one of {task.words} has not"
        return f"it is of another task: its head has layers that {has_not}; {would}"
    shared = sum(k in own and own[k].shape == v.shape for k, v in given.items())
    if shared < LEAST_SHARED * len(own):
        return f"it holds only {shared} of the {len(own)} tensors of {model}: it is of another model or scale; {would}"
    return ""


def read_state(path: str, base: str, *, part: bool = False) -> dict[str, torch.Tensor]:
    """Return named tensors from a file of this tool, from an Ultralytics checkpoint or tensors of the same base.

    Args:
        path: The file.
        base: Name of the base.
        part: As `read_checkpoint`: it is a bank's, of one layer.

    Raises:
        WeightsError: It cannot be read.
        ProxyError: It is of another base.
    """
    found = read_checkpoint(Path(path), part=part)
    graph = load_base(base)
    if not found.is_numbered:
        head = f"{graph.names[-1]}:"
        return {re.sub(r"^head\.detect:", head, key): tensor for key, tensor in found.tensors.items()}
    if found.layer_count != len(graph.layers):
        raise ProxyError(
            f"{path} has {found.layer_count} layers, {base} has {len(graph.layers)}: it is of another model or task; "
            f"give a .pt of {base} that was trained for {task_of_base(base).words}"
        )
    return dict(named_state(found.tensors, graph))


def _not_a_checkpoint(path: Path) -> str:
    """Return why `torch.load` would not read a file as an archive with a pickle in it; empty if it would."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            file.seek(0)
            if file.read(4) != b"PK\3\4":
                return "it does not start as a file of torch.save"
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "it is no file that torch.save wrote since PyTorch 1.6"
    if any(name.endswith("constants.pkl") for name in names):
        return _SCRIPT
    return "" if any(name.endswith("data.pkl") for name in names) else "it holds no tensors of torch.save"


def _of_tensors(state: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a mapping by name, or of the state_dict in it; empty if there are none."""
    if not isinstance(state, Mapping):
        return {}
    inner = next((v for key in _INSIDE if isinstance(v := state.get(key), Mapping) and v), state)
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _of_model(path: Path, content: Any) -> Checkpoint:
    """Return the tensors of an Ultralytics checkpoint."""
    content = content if isinstance(content, Mapping) else {"model": content}
    model = next((m for m in (content.get("ema"), content.get("model")) if isinstance(m, _Placeholder)), None)
    if model is None and (tensors := _of_tensors(content)):
        return Checkpoint(tensors)
    if model is None:
        raise WeightsError(_NO_MODEL.format(path))
    about = model.state
    config = about.get("yaml")
    if isinstance(filled := content.get("tensors"), _Placeholder):  # of `nas.emit.pretrained`: a call that loads them
        tensors = _of_tensors(filled.given[1] if len(filled.given) > 1 else None)
        layers, config = 0, model.given[0] if model.given else None
    else:
        tensors = _of_tensors(dict(_state(model, "", 0)))
        inner = _entry(about, "_modules").get("model")
        layers = len(_entry(inner.state, "_modules")) if isinstance(inner, _Placeholder) else 0
    names = about.get("names")
    origin, known = "", dict[str, Any]()
    points: list[int] = []
    if isinstance(config, Mapping):
        given = config.get("kpt_shape")
        points = [n for n in given if type(n) is int and n > 0] if isinstance(given, list | tuple) else []
        origin = f"{Path(str(config.get('yaml_file', 'a model'))).stem}, scale {config.get('scale') or 'unknown'}"
        known |= {"config": _plain(config), "scale": str(config.get("scale") or "")}
    names = names if isinstance(names, Mapping) else dict(enumerate(names if isinstance(names, list) else []))
    named = {k: str(v) for k, v in names.items() if isinstance(k, int)}
    return Checkpoint(tensors, layers, named, origin, tuple(points) if len(points) == 2 else (), **known)


def read_model(path: Path) -> tuple[str, str, Mapping[str, torch.Tensor]]:
    """Return the model YAML in an Ultralytics checkpoint, its scale letter, and its tensors; no code of it runs.

    Raises:
        WeightsError: It cannot be read, or holds tensors without a model YAML.
    """
    found = read_checkpoint(path)
    if not found.config:
        raise WeightsError(f"{path} has no model YAML, so its model is not known: give an Ultralytics checkpoint")
    return yaml.safe_dump(dict(found.config), sort_keys=False, default_flow_style=None), found.scale, found.tensors


def _plain(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the parts of a model YAML that its model depends on; empty if one is no plain data."""
    try:
        kept = {key: config[key] for key in _OF_MODEL if key in config}
        return dict(json.loads(json.dumps(kept, allow_nan=False)))
    except (TypeError, ValueError, RecursionError):
        return {}


def _state(module: _Placeholder, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Iterate over what `state_dict` of a module would hold: parameters, persistent buffers, then those of children."""
    if depth > _DEEPEST:
        raise WeightsError("a module of the checkpoint holds itself")
    passing = module.state.get("_non_persistent_buffers_set", ())
    passing = passing if isinstance(passing, set | list | tuple) else getattr(passing, "given", ([],))[0]
    for kind in ("_parameters", "_buffers"):
        for name, value in _entry(module.state, kind).items():
            if value is not None and not (kind == "_buffers" and name in passing):
                yield f"{prefix}{name}", value
    for name, child in _entry(module.state, "_modules").items():
        if isinstance(child, _Placeholder):
            yield from _state(child, f"{prefix}{name}.", depth + 1)


def _entry(state: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = state.get(key)
    return value if isinstance(value, Mapping) else {}


class _Placeholder:
    """Stands for an object of a class, or the result of a function, that is not looked up.

    Attributes:
        given: Arguments of its construction or call.
        state: What would be its attributes.
    """

    def __new__(cls, *given: Any, **_named: Any) -> _Placeholder:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.given, made.state, made.items = given, {}, []
        return made

    given: tuple[Any, ...]
    state: dict[str, Any]
    items: list[Any]

    def __init__(self, *_given: Any, **_named: Any) -> None:
        """Accept any arguments; `__new__` has kept them."""

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes; a pair holds them and those of slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.state.update((str(key), value) for key, value in part.items())

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an item of what would be a dictionary."""
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        """Keep an item of what would be a list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Keep items of what would be a list."""
        self.items.extend(items)

    def __call__(self, *given: Any) -> _Placeholder:
        """Return what stands for the result of a call."""
        return _Placeholder(*given)


_LOOKED_UP: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{
        ("torch._utils", name): getattr(_utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
}


class _Unpickler(pickle.Unpickler):
    """Looks up nothing but what makes tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what makes tensors, or a new class of placeholders."""
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return _LOOKED_UP.get((module, name)) or type("_Placeholder", (_Placeholder,), {"of": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PLACEHOLDERS: Any = SimpleNamespace(
    Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError, __name__="placeholders"
)
"""In place of the module pickle for `torch.load`."""
