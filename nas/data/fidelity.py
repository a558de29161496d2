"""Which images a proxy has to see to stand for the target: its own size, a smaller one, or windows.

The cost of a proxy is that of the pixels of its input; the cheapest is chosen among those in which the boxes fall on
the detection levels as at the target (`nas.data.levels`). Where objects are small, windows are: they keep the sizes.
Where objects are larger than any affordable window, smaller images are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.data.dataset import Dataset
from nas.data.levels import (
    LEAST_BOX,
    LEVELS,
    USED,
    Labelled,
    Shares,
    read_labels,
    seen_in_validation,
    too_small,
    whole_shares,
    window_shares,
)
from nas.errors import DataError, OptionError

ADEQUATE = 0.1
"""Largest total variation distance between the shares of a proxy and of the target."""
LEAST_SIDE, STRIDE = 128, 32
"""Pixels: the smallest side of a proxy that is chosen by itself, and the step between sides."""
LEAST_TARGET = 64
"""Pixels: the smallest target; the coarsest level of a detector has one cell for each 32 px."""


@dataclass(frozen=True)
class Fidelity:
    """What a network sees: images with a long side of `imgsz` px, or windows of `imgsz` px cut at another scale.

    Attributes:
        imgsz: Side of the network's input in pixels.
        windows_at: Long side in pixels that images are scaled to before windows are cut; 0 is no windows.
    """

    imgsz: int
    windows_at: int = 0

    @property
    def words(self) -> str:
        """Description."""
        return f"windows of {self.imgsz} px at {self.windows_at} px" if self.windows_at else f"{self.imgsz} px"

    @property
    def options(self) -> str:
        """The options of ``nas search`` that ask for it."""
        return f"--window {self.imgsz}" if self.windows_at else f"--imgsz {self.imgsz}"


def shares_at(images: Sequence[Labelled], fidelity: Fidelity) -> Shares:
    """Return the shares of what a network sees."""
    if fidelity.windows_at:
        return window_shares(images, fidelity.imgsz, fidelity.windows_at)
    return whole_shares(images, fidelity.imgsz)


def choose_fidelity(images: Sequence[Labelled], target: int) -> Fidelity:
    """Return the cheapest fidelity whose shares are within `ADEQUATE` of those of the target; else the target itself.

    The cost is that of the pixels of the network's input. Of a window and a size of equal cost the one with the smaller
    distance is taken.
    """
    wanted = whole_shares(images, target)
    for side in range(LEAST_SIDE, target, STRIDE):
        both = [(shares_at(images, f).distance(wanted), f) for f in (Fidelity(side), Fidelity(side, target))]
        distance, chosen = min(both, key=lambda pair: pair[0])
        if distance <= ADEQUATE:
            return chosen
    return Fidelity(target)


@dataclass(frozen=True)
class Comparison:
    """Where the boxes of the training images fall at the target, and at a proxy.

    Attributes:
        target: Long side of the target's images in pixels, and `wanted` the shares there.
        proxy: The proxy, and `got` the shares there.
        adequate: The cheapest fidelity that would do (`choose_fidelity`).
    """

    target: int
    wanted: Shares
    proxy: Fidelity
    got: Shares
    adequate: Fidelity

    @property
    def distance(self) -> float:
        """Total variation distance between both, 0 to 1."""
        return self.got.distance(self.wanted)

    @property
    def line(self) -> str:
        """Both in one line."""
        same = self.proxy == Fidelity(self.target)
        proxy = "the proxy has the same size" if same else f"proxy, {self.proxy.words}: {self.got.words}"
        return f"boxes at {self.target} px (target): {self.wanted.words}; {proxy}"

    @property
    def lines(self) -> list[str]:
        """Each in one line, and which proxy would do."""
        lines = [f"target, {self.target} px: {self.wanted.words}", f"proxy, {self.proxy.words}: {self.got.words}"]
        if self.warning:
            return [*lines, self.warning]
        would = f"{self.adequate.words} would do: {self.adequate.options}"
        if self.proxy == self.adequate:
            return [*lines, would]
        how = "is within" if self.distance <= ADEQUATE else "is not within"
        return [*lines, f"the proxy {how} {ADEQUATE} of the target (total variation {self.distance:.2f}); {would}"]

    @property
    def warning(self) -> str:
        """What is wrong with the proxy, and what would do; empty if nothing is."""
        idle = self.got.idle_for(self.wanted)
        if not idle:
            return ""
        levels = " and ".join(f"{x} ({self.wanted.of[LEVELS.index(x)]:.0%} of the boxes)" for x in idle)
        return (
            f"{levels} will idle in this proxy, though the target uses {'it' if len(idle) == 1 else 'them'}: swaps of "
            f"{'its' if len(idle) == 1 else 'their'} layers cannot be judged. {self.adequate.words} would do: "
            f"{self.adequate.options}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "target": {"imgsz": self.target, "shares": self.wanted.by_level, "boxes": self.wanted.boxes},
            "proxy": {**asdict(self.proxy), "shares": self.got.by_level, "distance": round(self.distance, 4)},
            "idle": self.got.idle_for(self.wanted),
            "adequate": asdict(self.adequate),
        }


def fidelity_of(target: int, imgsz: int | None, window: int | None) -> Fidelity | None:
    """Return the fidelity that options ask for; None if they ask for none.

    Raises:
        OptionError: They contradict each other.
    """
    if window is None:
        return Fidelity(imgsz) if imgsz else None
    if imgsz:
        raise OptionError(f"--imgsz {imgsz} shrinks images and --window {window} cuts windows: give one of them")
    if window % STRIDE:
        raise OptionError(f"--window {window}: give a multiple of {STRIDE}")
    if window >= target:
        raise OptionError(
            f"--window {window} is not smaller than the target's images of {target} px, of which windows are cut: give "
            "a smaller window, or a larger target"
        )
    return Fidelity(window, target)


def check_target(imgsz: int) -> int:
    """Return the image size of a target.

    Raises:
        OptionError: The host trains no such size, or it is too small for a detector.
    """
    if imgsz % STRIDE or imgsz < LEAST_TARGET:
        near = max(LEAST_TARGET, -(-imgsz // STRIDE) * STRIDE)
        raise OptionError(
            f"--target-imgsz {imgsz}: expected a multiple of {STRIDE} from {LEAST_TARGET} px on, such as {near}: "
            "Ultralytics trains no other size"
        )
    return imgsz


def compare(images: Sequence[Labelled], target: int, proxy: Fidelity | None = None) -> Comparison:
    """Compare where the boxes of images fall at the target and at a proxy; without one, at the cheapest adequate one.

    Raises:
        DataError: Hardly any box is as small as the windows of the proxy, or large enough to be seen at the target.
    """
    if (lost := too_small(images, target)) > 1 - USED:
        raise DataError(
            f"at {target} px, {lost:.0%} of the boxes are smaller than {LEAST_BOX:g} px, which no detector finds: give "
            "--target-imgsz the image size of the training that is planned"
        )
    adequate = choose_fidelity(images, target)
    proxy = proxy or adequate
    got = shares_at(images, proxy)
    if sum(got.of) < USED:
        raise DataError(_unseen(proxy, adequate, ""))
    return Comparison(target, whole_shares(images, target), proxy, got, adequate)


def check_labelled(dataset: Dataset) -> None:
    """Raise DataError for a dataset without objects, of which no windows can be cut."""
    if dataset.is_folder:
        raise DataError(
            "windows keep the size of objects, which datasets of classification do not label: leave --window out; "
            "--imgsz is the size that whole images are scaled to"
        )


def check_windows(dataset: Dataset, fidelities: Iterable[Fidelity]) -> None:
    """Check that windows show objects of a dataset, in training and in validation.

    Raises:
        DataError: Hardly any box is as small as some windows, or there are no boxes; the message says what would do.
    """
    cut = [fidelity for fidelity in dict.fromkeys(fidelities) if fidelity.windows_at]
    if cut:
        check_labelled(dataset)
    train, val = read_labels(dataset) if cut else ([], [])
    for fidelity in cut:
        seen = {
            "training": sum(shares_at(train, fidelity).of),
            "validation": seen_in_validation(val, fidelity.imgsz, fidelity.windows_at),
        }
        for split, share in seen.items():
            if share < USED:
                images = train if split == "training" else val
                would = choose_fidelity(images, fidelity.windows_at)
                raise DataError(_unseen(fidelity, would, f" of the {split} images"))


def _unseen(proxy: Fidelity, would: Fidelity, where: str) -> str:
    return (
        f"windows of {proxy.imgsz} px at {proxy.windows_at} px show hardly any object{where}, because nearly all are "
        f"larger; {would.words} would do: {would.options}"
    )
