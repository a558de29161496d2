"""Recipes: how every proxy of a study is trained, pinned."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas.device import CPU, choose_device, choose_precision
from nas.errors import ProxyError

SCRATCH_LR0 = 2e-3
"""AdamW's learning rate from scratch: what Ultralytics' own optimizer=auto takes for a handful of classes."""
FINE_TUNE_LR0 = 5e-4
"""AdamW's learning rate from trained weights: high enough to fit a new module, low enough to keep the trained rest."""

BANK_FINE_TUNE_LR0 = 1e-4
"""AdamW's learning rate of a variant from the bank: at five times that, the error of a comparison was three times as
large (yolov8n on bccd, 2 epochs)."""
BANK_LR0 = 6e-3
"""AdamW's learning rate of distilling single layers: a regression, which tolerates more than a detector."""
WINDOWS, WHOLE = "windows", "whole"
"""What a proxy on windows is validated on: fixed windows, or whole images at the scale that windows are cut from."""
KINDS = ("bank", "baseline", "scratch")
"""Values of `Recipe.init` other than the name of a file."""

BASE_EPOCHS = 40
"""Default epochs of a baseline, which is the teacher of the bank."""

_OF_WINDOWS = ("windows_at", "validated_on")
"""Settings of windows."""
_FROM_SCRATCH: dict[str, Any] = {"warmup_epochs": 1.0, "warmup_bias_lr": 0.1, "mosaic": 1.0}
"""The host's own warm-up, which untrained weights need."""


@dataclass(frozen=True)
class Recipe:
    """The training recipe of every proxy of a study. Pinned: the host chooses nothing of it at run time.

    Attributes:
        epochs: Epochs of a proxy; its schedule (warm-up, linear decay to `lrf`) spans exactly these. With 0, BatchNorm
            statistics are recomputed and the initial weights validated.
        imgsz: Side of the network's input in pixels.
        windows_at: Long side in pixels that images are scaled to before windows of `imgsz` px are cut from them
            (`nas.training.windows`); 0 is no windows: the image itself is scaled to `imgsz`.
        validated_on: `WINDOWS` or `WHOLE`, where windows are cut.
        batch: Images a step, and the nominal batch size, so that each batch is a step.
        init: Initial weights: ``bank`` (a trained baseline, and the bank distilled from it for swapped layers),
            ``baseline`` (the trained baseline only), ``scratch``, or a .pt file.
        init_digest: SHA-256 of that file, so that a changed file is noticed; empty without one.
        start: Initial values of swapped modules when other layers are trained: ``near`` (a warm start, as close to the
            replaced layer as the module's formula allows) or ``fresh`` (random).
        weights: A .pt file that the baseline's training starts from; empty for scratch.
        weights_digest: SHA-256 of that file.
        base_epochs: Epochs of that baseline; with `weights` it may be 0.
        base_until: Epochs up to which that baseline is trained on until its validation flattens
            (`nas.bank.maturity`); 0 trains exactly `base_epochs`.
        bank_epochs: Epochs of distilling the bank.
        bank_lr0: Initial learning rate of distilling the bank.
        validations: Number of the last epochs that are validated.
        lr0: Initial learning rate of a proxy.
        base_lr0: Initial learning rate of the baseline's training.
        lrf: Final learning rate over the initial one.
        warmup_epochs: Epochs of linear warm-up, of a proxy.
        warmup_bias_lr: Learning rate of biases at the start of the warm-up. A high one helps a training from scratch,
            and harms trained weights.
        weight_decay: AdamW's weight decay.
        mosaic: Probability of mosaic augmentation (an image composed of four).
        channels_last: Whether tensors have the channels-last memory format: faster, and equal up to rounding.
        optimizer: The host's name of the optimizer.
        device: ``cpu`` or a CUDA device number.
        amp: ``bf16`` trains with torch's autocast to bfloat16, on GPUs and CPUs; weights, loss (on CPUs) and validation
            stay in float32. False trains in float32.
    """

    epochs: int = 8
    imgsz: int = 160
    batch: int = 16
    init: str = "baseline"
    init_digest: str = ""
    start: str = "near"
    weights: str = ""
    weights_digest: str = ""
    base_epochs: int = BASE_EPOCHS
    bank_epochs: int = 8
    bank_lr0: float = BANK_LR0
    validations: int = 3
    lr0: float = FINE_TUNE_LR0
    base_lr0: float = SCRATCH_LR0
    lrf: float = 0.01
    warmup_epochs: float = 0.5
    warmup_bias_lr: float = 0.0
    weight_decay: float = 5e-4
    mosaic: float = 1.0
    channels_last: bool = True
    optimizer: str = "AdamW"
    device: str = "cpu"
    amp: str | bool = False
    windows_at: int = 0
    validated_on: str = WINDOWS
    base_until: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing; a setting that versions before it did not have only where it is used."""
        body = asdict(self)
        unused = [*(_OF_WINDOWS if not self.windows_at else ()), *(() if self.base_until else ("base_until",))]
        return {key: value for key, value in body.items() if key not in unused}

    def differences(self, other: Recipe) -> list[str]:
        """Return the differences, a line each; a moved file of weights is none."""
        mine, theirs = asdict(self), asdict(other)
        for key in ("init", "weights"):
            digest = mine[f"{key}_digest"]
            if digest and digest == theirs[f"{key}_digest"]:
                theirs[key] = mine[key]
        return [f"{key}: {mine[key]!r}, not {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]

    def identity(self) -> dict[str, Any]:
        """Return what decides a result: no paths of files, and no settings that its kind of initial weights ignores."""
        body = self.to_json()
        base = ("weights_digest", "base_epochs", "base_lr0", "base_until")
        kind = self.init if self.init in KINDS else "file"
        used = {"scratch": (), "file": ("start",), "baseline": ("start", *base)}
        used["bank"] = (*used["baseline"], "bank_epochs", "bank_lr0")
        unused = {"init", "weights", "start", *base, "bank_epochs", "bank_lr0"} - set(used[kind])
        if self.mosaic == 1:  # the host's own
            unused.add("mosaic")
        return {"kind": kind, **{k: v for k, v in body.items() if k not in unused}}

    @property
    def trains_baseline(self) -> bool:
        """True if variants start from a baseline that is trained here, not from a given file."""
        return self.init in ("bank", "baseline") and self.base_epochs > 0

    def for_baseline(self) -> Recipe:
        """Return the recipe of the baseline that variants start from."""
        if self.weights:
            start = {"init": self.weights, "init_digest": self.weights_digest, **start_of(self.weights)}
        else:
            start = {"init": "scratch", **start_of("scratch")}
        return replace(self, **{**start, "epochs": self.base_epochs, "lr0": self.base_lr0})


def start_of(init: str) -> dict[str, Any]:
    """Return the settings that depend on the kind of initial weights."""
    if init == "scratch":
        return {"lr0": SCRATCH_LR0, **_FROM_SCRATCH}
    if init == "bank":
        # Swaps are distilled already: there is little left to learn, and every further step adds noise. With mosaic, a
        # few epochs would end on another kind of image than those of the validation.
        return {"lr0": BANK_FINE_TUNE_LR0, "mosaic": 0.0}
    return {"lr0": FINE_TUNE_LR0, "mosaic": 1.0}


def make_recipe(
    *,
    init: str,
    epochs: int,
    imgsz: int,
    batch: int,
    base_epochs: int | None,
    device: str | None,
    weights: str = "",
    amp: str | bool | None = None,
    windows_at: int = 0,
    base_until: int = 0,
) -> Recipe:
    """Return the recipe of a new study; values of None are chosen from the others and the machine.

    Raises:
        OptionError: There is no such device, or it cannot train in that precision.
        ProxyError: A file of weights cannot be read.
    """
    device = choose_device(device)
    return Recipe(
        epochs=epochs,
        imgsz=imgsz,
        windows_at=windows_at,
        batch=batch,
        init=init,
        init_digest=digest_of(init),
        weights=weights,
        weights_digest=digest_of(weights),
        base_epochs=base_epochs if base_epochs is not None else BASE_EPOCHS,
        base_lr0=FINE_TUNE_LR0 if weights else SCRATCH_LR0,
        base_until=base_until,
        **start_of(init),
        # On Windows with CUDA, channels last is about three times as slow (ultralytics#26105), and Ultralytics trains
        # without it too.
        channels_last=device == CPU or platform.system() != "Windows",
        device=device,
        amp=choose_precision(device, amp),
    )


def digest_of(init: str) -> str:
    """Return the SHA-256 of a recipe's file of initial weights; empty if `init` names none.

    Raises:
        ProxyError: The file cannot be read.
    """
    if not init or init in KINDS:
        return ""
    try:
        return hashlib.sha256(Path(init).read_bytes()).hexdigest()
    except OSError as error:
        raise ProxyError(f"cannot read the weights to inherit from: {error}") from None
