"""Recipes: how every proxy of a study is trained, pinned."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas.errors import ProxyError

SCRATCH_LR0 = 2e-3
"""AdamW's learning rate from scratch: what Ultralytics' own optimizer=auto takes for a handful of classes."""
FINE_TUNE_LR0 = 5e-4
"""AdamW's learning rate from trained weights: high enough to fit a new module, low enough to keep the trained rest."""

BANK_FINE_TUNE_LR0 = 1e-4
"""AdamW's learning rate of a variant from the bank: at five times that, the error of a comparison was three times as
large (yolov8n on bccd, 2 epochs)."""
BANK_LR0 = 6e-3
"""AdamW's learning rate of distilling single layers: a regression, which bears more than a detector."""
KINDS = ("bank", "baseline", "scratch")
"""What `Recipe.init` may be beside the name of a file."""

BASE_EPOCHS = 40
"""Epochs of a baseline unless something else is asked for: what is not learnt cannot be taught."""

_FROM_SCRATCH: dict[str, Any] = {"warmup_epochs": 1.0, "warmup_bias_lr": 0.1, "mosaic": 1.0}
"""The host's own warm-up, which untrained weights need."""


@dataclass(frozen=True)
class Recipe:
    """How every proxy of a study is trained. Pinned: nothing here is chosen by the host at run time.

    Attributes:
        epochs: Epochs of a proxy; its schedule (warm-up, linear decay to `lrf`) spans exactly these. None are a score
            too: BatchNorm statistics are refreshed and the weights validated as they are.
        imgsz: Image side in pixels.
        batch: Images a step; the nominal batch size too, so that each batch is a step.
        init: ``bank`` (inherit from a trained baseline, and swapped layers from the bank that was distilled from it),
            ``baseline`` (from the trained baseline alone), ``scratch``, or a .pt file to inherit from.
        init_digest: SHA-256 of that file, so that another one under its name is noticed; empty without one.
        start: How swapped modules begin when something is inherited: ``near`` (as close to what they replace as their
            maths allows) or ``fresh`` (with initial values of their own).
        weights: A .pt file that the baseline's training starts from; empty for scratch.
        weights_digest: SHA-256 of that file.
        base_epochs: Epochs of that baseline; with weights it may be none.
        bank_epochs: Epochs of distilling the bank.
        bank_lr0: Initial learning rate of that.
        validations: How many of the last epochs are validated.
        lr0: Initial learning rate of a proxy.
        base_lr0: Initial learning rate of the baseline's training.
        lrf: Final learning rate over the initial one.
        warmup_epochs: Epochs of linear warm-up, of a proxy.
        warmup_bias_lr: Learning rate at which biases start the warm-up. High, it helps a training from scratch off the
            ground; trained weights it sets back.
        weight_decay: AdamW's weight decay.
        mosaic: Probability of an image being put together from four.
        channels_last: Whether tensors lie in memory with the channels last: the same numbers but for rounding, sooner.
        optimizer: By the host's name for it.
        device: ``cpu`` or a CUDA device number.
        amp: ``bf16`` lets forward and backward compute in bfloat16 where torch's autocast says so, on GPUs and CPUs;
            weights, loss (on CPUs) and validation (on CPUs) stay in float32. False trains in float32.
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

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing."""
        return asdict(self)

    def differences(self, other: Recipe) -> list[str]:
        """Say what differs, a line each; a file of weights may have moved."""
        mine, theirs = self.to_json(), other.to_json()
        for key in ("init", "weights"):
            digest = mine[f"{key}_digest"]
            if digest and digest == theirs[f"{key}_digest"]:
                theirs[key] = mine[key]
        return [f"{key}: {mine[key]!r}, not {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]

    def identity(self) -> dict[str, Any]:
        """Return what decides a result: not where a file lies, nor settings that this kind of start does not use."""
        body = self.to_json()
        base = ("weights_digest", "base_epochs", "base_lr0")
        kind = self.init if self.init in KINDS else "file"
        used = {"scratch": (), "file": ("start",), "baseline": ("start", *base)}
        used["bank"] = (*used["baseline"], "bank_epochs", "bank_lr0")
        unused = {"init", "weights", "start", *base, "bank_epochs", "bank_lr0"} - set(used[kind])
        if self.mosaic == 1:  # the host's own
            unused.add("mosaic")
        return {"kind": kind, **{k: v for k, v in body.items() if k not in unused}}

    @property
    def trains_baseline(self) -> bool:
        """Whether variants inherit from a baseline that is trained here, and not from tensors that are given."""
        return self.init in ("bank", "baseline") and self.base_epochs > 0

    def for_baseline(self) -> Recipe:
        """Return the recipe of the baseline that others inherit from."""
        if self.weights:
            start = {"init": self.weights, "init_digest": self.weights_digest, **start_of(self.weights)}
        else:
            start = {"init": "scratch", **start_of("scratch")}
        return replace(self, **{**start, "epochs": self.base_epochs, "lr0": self.base_lr0})


def start_of(init: str) -> dict[str, Any]:
    """Return what of a recipe goes with a kind of start."""
    if init == "scratch":
        return {"lr0": SCRATCH_LR0, **_FROM_SCRATCH}
    if init == "bank":
        # Swaps come distilled: there is little left to learn, and every step beyond it adds noise. Images put together
        # from four would end a few epochs on another kind of image than they are judged by.
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
) -> Recipe:
    """Return the recipe of a new study; what is None is chosen from the rest and the machine."""
    device = device or ("0" if _cuda() else "cpu")
    return Recipe(
        epochs=epochs,
        imgsz=imgsz,
        batch=batch,
        init=init,
        init_digest=digest_of(init),
        weights=weights,
        weights_digest=digest_of(weights),
        base_epochs=base_epochs if base_epochs is not None else BASE_EPOCHS,
        base_lr0=FINE_TUNE_LR0 if weights else SCRATCH_LR0,
        **start_of(init),
        device=device,
        amp=amp if amp is not None else device != "cpu" and _bf16(),
    )


def digest_of(init: str) -> str:
    """Return the SHA-256 of the file that a recipe inherits from; empty if it names none.

    Raises:
        ProxyError: The file cannot be read.
    """
    if not init or init in KINDS:
        return ""
    try:
        return hashlib.sha256(Path(init).read_bytes()).hexdigest()
    except OSError as error:
        raise ProxyError(f"cannot read the weights to inherit from: {error}") from None


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _bf16() -> str | bool:
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else False
