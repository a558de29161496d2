"""A linear scale from values to percent of a width, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A scale from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the place of a value in percent of the width, within it."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def holds(self, value: float) -> bool:
        """Return whether a value is on the scale."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values on the scale, at most that many."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * k, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_of(values: Sequence[float], ends: Sequence[tuple[float, float]], band: float = 0.0) -> Scale:
    """Return a scale that holds all values, zero, and the band; intervals as far as they leave the values legible.

    Args:
        values: What has to be seen.
        ends: Intervals around them; where they are wider than twice the range of the values, they are cut.
        band: Half the width of a band around zero.
    """
    low, high = min([*values, 0.0]), max([*values, 0.0])
    span = max(high - low, 1e-4)
    if band <= 2 * span:
        low, high = min(low, -band), max(high, band)
    far = max(high - low, span)
    low = max(min([low, *(a for a, _ in ends)]), low - far)
    high = min(max([high, *(b for _, b in ends)]), high + far)
    room = 0.03 * (high - low)
    return Scale(low - room, high + room)
