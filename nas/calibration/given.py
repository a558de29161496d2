"""Full trainings that exist, and that a calibration takes instead of making its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas.errors import CalibrationError
from nas.space.graph import with_letter
from nas.space.variant import Variant
from nas.training.jobs import ProxyResult

LEAST = 4
"""The fewest variants, the baseline included."""


@dataclass(frozen=True)
class GivenFull:
    """Full trainings of several variants under the same seeds.

    Attributes:
        name: What they are, for the report.
        key: Digest of their settings.
        epochs: Their epochs.
        imgsz: Their image size in pixels.
        seeds: Number of seeds under which all variants were trained; they are counted from 0 here.
        variants: The variants, the baseline first.
        results: By variant ID and seed.
    """

    name: str
    key: str
    epochs: int
    imgsz: int
    seeds: int
    variants: tuple[Variant, ...]
    results: Mapping[tuple[str, int], ProxyResult]

    @property
    def is_enough(self) -> bool:
        """Whether they have a baseline, common seeds, and variants enough for a calibration."""
        return bool(self.seeds) and len(self.variants) >= LEAST and self.variants[0].is_baseline

    def check(self, base: str, scale: str) -> None:
        """Raise CalibrationError unless they are enough, with a baseline, and of this base and scale."""
        if not self.variants or not self.variants[0].is_baseline or not self.seeds:
            raise CalibrationError(f"{self.name} have no baseline: `nas train STUDY --with baseline` trains it")
        if len(self.variants) < LEAST:
            raise CalibrationError(
                f"{self.name} are of {len(self.variants)} variants under the same seeds, and a calibration needs "
                f"{LEAST} or more: `nas train STUDY --front --with baseline` trains more"
            )
        if other := next((v for v in self.variants if (v.base, v.scale) != (base, scale)), None):
            raise CalibrationError(f"{self.name} are of {other.stock}, and the space of {with_letter(base, scale)}")
