"""The host's training arguments: read as its own command line does, and checked against its defaults before a start."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.device import choose_device, plain_name
from nas.errors import OptionError, shown

_OURS = {
    "data": "the study's data, or --data",
    "model": "chosen by --best, --trial, --variant or --front",
    "epochs": "--epochs",
    "imgsz": "--imgsz",
    "seed": "--seeds",
    "device": "--device",
    "project": "chosen by the study",
    "name": "chosen by the study",
    "save_dir": "chosen by the study",
    "exist_ok": "set by the command",
    "resume": "set by the command: it resumes what was stopped",
    "pretrained": "--from",
    "distill_model": "--distill",
    "task": "that of the study's base",
    "mode": "always train",
    "time": "--epochs, as trainings are compared after equally many",
    "cfg": "its arguments are given as KEY=VALUE, each",
    "save": "always True: best.pt is the result",
}
"""Arguments that the command sets itself, and what chooses them."""
_MACHINE = ("cache", "device", "plots", "save_period", "verbose", "workers", "profile")
"""Arguments on which no result depends, but for the order of sums."""


@dataclass(frozen=True)
class FullOptions:
    """The options of ``nas train``; its help says what each means."""

    best: bool = False
    trial: int | None = None
    variants: tuple[str, ...] = ()
    front: bool = False
    extras: tuple[str, ...] = ()
    epochs: int = 100
    imgsz: int | None = None
    seeds: int = 1
    start: str = "scratch"
    distill: bool = False
    data: str | None = None
    device: str | None = None
    workers: int = 1
    arguments: tuple[str, ...] = ()


def read_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Return the host's training arguments of ``key=value`` texts.

    Raises:
        OptionError: One has another form, is set by the command itself, or the host refuses it: with the host's words.
    """
    cfg = importlib.import_module("ultralytics.cfg")
    given: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(f"{shown(text)}: expected an argument of Ultralytics as key=value, such as lr0=0.005")
        if key in _OURS:
            raise OptionError(f"{text}: {key} is not given so here ({_OURS[key]})")
        try:
            given[key] = cfg.smart_value(value)
        except Exception as error:  # it evaluates what looks like a number or a list
            raise OptionError(f"{text}: Ultralytics cannot read this value ({_said(error)})") from None
    check_arguments(given)
    return given


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise OptionError, with the host's words, if the installed host does not know an argument or its type."""
    cfg = importlib.import_module("ultralytics.cfg")
    logger = importlib.import_module("ultralytics.utils").LOGGER
    before = logger.level
    logger.setLevel("CRITICAL")  # for an unknown argument it prints the help of its own command line
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cfg.get_cfg(cfg.DEFAULT_CFG_DICT, dict(given))
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        version = importlib.import_module("ultralytics").__version__
        raise OptionError(f"Ultralytics {version} refuses an argument: {_said(error)}") from None
    finally:
        logger.setLevel(before)


def device_of(text: str | None) -> str:
    """Return the device as the host takes it: several GPUs are trained on by its DDP.

    Raises:
        OptionError: There is no such device.
    """
    several = [part for part in plain_name(text or "").split(",") if part]
    return ",".join(choose_device(part) for part in several) if len(several) > 1 else choose_device(text)


def can_distil() -> bool:
    """Return whether the installed host trains with a teacher (``distill_model``)."""
    return "distill_model" in importlib.import_module("ultralytics.cfg").DEFAULT_CFG_DICT


def deciding(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that decide a result and differ from the host's defaults, as plain values."""
    defaults = importlib.import_module("ultralytics.cfg").DEFAULT_CFG_DICT
    kept = {k: v for k, v in arguments.items() if k not in _MACHINE and v != defaults.get(k)}
    return dict(json.loads(json.dumps(kept, default=str)))


def group_of(*parts: object) -> str:
    """Return a digest, 8 hex digits, of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _said(error: Exception) -> str:
    """Return the host's message on one line."""
    text = str(error.args[0] if error.args else error)
    text = text.replace(importlib.import_module("ultralytics.cfg").CLI_HELP_MSG, "")  # which older releases add
    return " ".join(text.split()) or type(error).__name__
