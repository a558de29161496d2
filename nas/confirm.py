"""How many of a ranking's first are confirmed, and with how many seeds.

Nothing heavy is imported here: the command line reads it before training processes are started.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Confirm:
    """How a ranking is confirmed: so many of its first, until each has so many seeds. Without any, it is not."""

    top: int = 0
    seeds: int = 0

    def __str__(self) -> str:
        return f"{self.top}:{self.seeds}" if self.top else "0"
