"""A linear scale from values to percent of a width, with round ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.svg import round_ticks


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
        return round_ticks(self.low, self.high, most)


def scale_of(values: Sequence[float], ends: Sequence[tuple[float, float]], band: float = 0.0) -> Scale:
    """Return a scale that holds all values, zero, and the band; intervals as far as they leave the values legible.

    Args:
        values: What has to be seen.
        ends: Intervals around them; where they reach further than twice the range of the values, they are cut.
        band: Half the width of a band around zero.
    """
    low, high = min([*values, 0.0]), max([*values, 0.0])
    span = max(high - low, 1e-4)
    if band <= 2 * span:
        low, high = min(low, -band), max(high, band)
    far = 2 * max(high - low, span)
    low = max(min([low, *(a for a, _ in ends)]), low - far)
    high = min(max([high, *(b for _, b in ends)]), high + far)
    if low == high:  # every difference is zero
        low, high = low - span, high + span
    room = 0.03 * (high - low)
    return Scale(low - room, high + room)
