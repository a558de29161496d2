"""Model YAMLs as Ultralytics may have them: it evaluates texts, and looks module names up among all that it imports.

Every model is built through here (`nas.model.host.build`), whoever wrote its YAML. Allowed are layers (`nn.Module`
classes that are no whole models), activations of torch.nn, words and plain literals; see `nas.space.safe_text`.
Building makes no network access: torchvision's models are built without pretrained weights, and what would open a
connection fails.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
import yaml
from torch import nn

from nas.errors import BuildError, shown
from nas.space.safe_text import activation_problem, argument_problem, module_problem
from nas.space.yaml_reader import load_yaml

_DEEPEST = 5
_LARGEST = 2**16
"""Largest number in a row or under nc: no layer has as many channels."""
_MOST_REPEATS = 200
_MOST_PARAMETERS = 2_000_000_000


def read_config(text: str, tasks: Any) -> dict[str, Any]:
    """Return the content of a model YAML that Ultralytics may build.

    Args:
        text: The YAML.
        tasks: Ultralytics' module that holds ``parse_model``.

    Raises:
        BuildError: It is no model YAML, or names something other than layers and plain values.
    """
    try:
        config = load_yaml(text)
    except yaml.YAMLError as error:
        raise BuildError(f"cannot be built: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not all(isinstance(config.get(key), list) for key in ("backbone", "head")):
        raise BuildError("cannot be built: it has no backbone and head with lists of rows")
    activation = config.get("activation")
    if activation and (why := activation_problem(str(activation))):
        raise BuildError(f"cannot be built: activation: {why}")
    _check_numbers("nc", config.get("nc"))
    scales = config.get("scales")
    if scales and not (isinstance(scales, dict) and all(_is_scale(value) for value in scales.values())):
        raise BuildError("cannot be built: scales: expected {letter: [depth, width, max_channels]}")
    for number, row in enumerate([*config["backbone"], *config["head"]]):
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or not isinstance(row[3], list):
            raise BuildError(
                f"cannot be built: row {number}: expected [from, repeats, module, [args]], not {shown(row)}"
            )
        where = f"row {number}"
        _check_numbers(where, row[0])
        _check_numbers(f"{where}: repeats", row[1], _MOST_REPEATS)
        _check_arguments(where, row[3], _variables(tasks) - config.keys())
        cls = _layer(where, row[2], tasks)
        if cls is getattr(tasks, "TorchVision", object()):
            row[3] = _without_weights(where, cls, row[3])
    return config


def _layer(where: str, name: str, tasks: Any) -> Any:
    """Return the class that parse_model would find for a name; None for none, which it reports itself.

    Raises:
        BuildError: It would find something other than a layer.
    """
    if why := module_problem(name):
        raise BuildError(f"cannot be built: {where}: {why}")
    package, _, last = name.rpartition(".")
    owner = tasks if not package else nn if package.endswith("nn") else importlib.import_module(package)
    found = getattr(owner, last, None)
    if found is None:
        return None
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise BuildError(f"cannot be built: {where}: {name} is no layer: expected a class's name, such as Conv")
    wholes = tuple(getattr(tasks, name) for name in ("BaseModel", "Ensemble") if hasattr(tasks, name))
    if issubclass(found, wholes):  # they read a YAML of their own; a layer that is defined beside them does not
        raise BuildError(f"cannot be built: {where}: {name} is a whole model, and no layer of one")
    return found


_OF_A_MODEL = {"nc", "kpt_shape", "reg_max", "end2end", "scale", "depth", "width", "max_channels", "act"}


def _variables(tasks: Any) -> set[str]:
    """Return parse_model's variables that are no settings of the model; a text of their name becomes their value."""
    code = getattr(inspect.unwrap(tasks.parse_model), "__code__", None)
    return {*code.co_varnames, *code.co_cellvars} - _OF_A_MODEL if code else set()


def _check_arguments(where: str, value: Any, variables: set[str], depth: int = 0) -> None:
    if isinstance(value, list) and depth < _DEEPEST:
        for part in value:
            _check_arguments(where, part, variables, depth + 1)
    elif isinstance(value, str):
        if why := argument_problem(value):
            raise BuildError(f"cannot be built: {where}: {why}")
        if value in variables:
            raise BuildError(f"cannot be built: {where}: {value!r} is a variable of Ultralytics' parse_model, no value")
    elif isinstance(value, bool | int | float) or value is None:
        _check_numbers(where, value)
    else:
        raise BuildError(f"cannot be built: {where}: {shown(value)}: expected numbers, words, or lists of these")


def _check_numbers(where: str, value: Any, most: int = _LARGEST) -> None:
    """Raise BuildError for a number that no model has."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int | float) and not abs(one) <= most:
            raise BuildError(f"cannot be built: {where}: {shown(one)}; at most {most:,} is used")


def _is_scale(value: Any) -> bool:
    """Return whether a value can be depth, width and largest channel count of a scale."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    numbers = [one for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
    return len(numbers) == 3 and all(0 < one <= 16 for one in numbers[:2]) and 0 < numbers[2] < math.inf


def check_size(text: str, scale: str, tasks: Any) -> None:
    """Count the parameters of a model before memory is taken for them.

    Args:
        text: The model YAML.
        scale: Scale letter.
        tasks: As for `read_config`.

    Raises:
        BuildError: They are too many to be built.
    """
    config = {**read_config(text, tasks), "scale": scale}
    try:
        with torch.device("meta"), constructing(tasks):
            layers = tasks.parse_model(config, ch=3, verbose=False)[0]
    except Exception:  # a module that needs values, or one that cannot be built: building it says why
        return
    count = sum(parameter.numel() for parameter in layers.parameters())
    if count > _MOST_PARAMETERS:
        raise BuildError(f"cannot be built: it has {count:,} parameters; at most {_MOST_PARAMETERS:,} are built")


def _without_weights(where: str, cls: Any, args: list[Any]) -> list[Any]:
    """Return the arguments of a TorchVision row with no pretrained weights, which would be downloaded."""
    names = list(inspect.signature(cls).parameters)
    model = names.index("model") if "model" in names else 0
    at = 1 + names.index("weights") - model  # the row's first argument is the channels, then comes the model
    torchvision: Any = importlib.import_module("torchvision")
    known = torchvision.models.list_models(module=torchvision.models)
    if len(args) < 2 or args[1] not in known:  # models of other kinds download a backbone
        given = shown(args[1]) if len(args) > 1 else "no name"
        raise BuildError(f"cannot be built: {where}: {given} is none of torchvision's classification models")
    return [*args[:at], *[True] * (at - len(args)), None, *args[at + 1 :]]


# ---- no network -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def constructing(tasks: Any) -> Iterator[None]:
    """Let modules make no connection, and restore the default activation, which parse_model leaves after an error."""
    act = tasks.Conv.default_act
    try:
        with no_network("a module of the model"):
            yield
    finally:
        tasks.Conv.default_act = act


_guarded = threading.local()
_hooked = threading.Event()


@contextlib.contextmanager
def no_network(what: str) -> Iterator[None]:
    """Let connections and look-ups of names fail in this thread; local sockets work.

    Args:
        what: What would ask the network, for the message.
    """
    if not _hooked.is_set():
        _hooked.set()
        sys.addaudithook(_refuse)  # for the life of the process; it costs a comparison where nothing is guarded
    before, _guarded.what = getattr(_guarded, "what", ""), what
    try:
        yield
    finally:
        _guarded.what = before


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or not getattr(_guarded, "what", ""):
        return
    local = event == "socket.connect" and getattr(args[0], "family", None) == getattr(socket, "AF_UNIX", -1)
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") and not local:
        raise PermissionError(f"{_guarded.what} asks the network, which this tool does not")
