"""The A/A check: whether verdicts call the baseline different from itself.

The baseline is trained under many seeds. Then its scores are dealt out at random, some to a baseline and some to each
of several pretended variants, and verdicts are given as for a ranking (`nas.ranking.verdict`), many times over. Nothing
differs, so every verdict but *cannot tell* is wrong.

Draws from one small pool of scores are much alike: where its scores happen to lie well apart, many of them are wrong.
How often that happens by chance is found by the same check on pools of normal numbers.

Scores of different seeds are set against each other here, so that what a seed does to all runs alike does not cancel as
it does in a ranking: errors are larger, and the verdicts find that out for themselves.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.ranking.verdict import LEVEL, compare

LEAST = 6
"""Seeds of the baseline below which too little can be dealt out."""
_POOLS, _DRAWS = 100, 100
"""Pools of normal numbers, and draws from each, that tell what chance does."""
DRAWS = 1000


@dataclass(frozen=True)
class Check:
    """What the check found.

    Attributes:
        pool: Seeds of the baseline.
        variants: Pretended variants in each draw.
        seeds: Seeds of each of them.
        draws: How many times the scores were dealt out.
        wrong: Draws with a verdict, one or more.
        chance: Share of wrong draws that 95 of 100 pools of normal numbers of this size stay below; 0 where verdicts
            are wrong too often even over all of these pools.
    """

    pool: int
    variants: int
    seeds: int
    draws: int
    wrong: int
    chance: float

    @property
    def share(self) -> float:
        """Share of draws with a wrong verdict."""
        return self.wrong / self.draws

    @property
    def passes(self) -> bool:
        """Whether that is as rare as the verdicts promise, or no more often than chance gives so small a pool."""
        return self.share <= max(LEVEL, self.chance)

    @property
    def text(self) -> str:
        """The check in a line."""
        kind = "variant" if self.variants == 1 else "variants"
        told = f"at most the {LEVEL:.0%} that verdicts promise"
        if self.share > LEVEL:
            how = "but no more" if self.passes else "and more"
            told = f"more than the {LEVEL:.0%} of the promise, {how} than chance gives here ({self.chance:.1%})"
        return (
            f"A/A: {self.pool} seeds of the baseline, dealt out {self.draws} times to a baseline and {self.variants} "
            f"{kind} of {self.seeds} seeds each: called different in {self.share:.1%} of the draws, {told}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "share": self.share, "passes": self.passes}


def check(scores: Sequence[float], variants: int, seeds: int, *, draws: int = DRAWS, seed: int = 0) -> Check:
    """Deal scores of the baseline out and count the draws in which a verdict is wrong.

    Args:
        scores: Of the baseline, one a seed, at least `LEAST`.
        variants: How many are to be pretended, at most: as many as there are scores for, without using one twice.
        seeds: How many seeds each is to have, at most: half of the scores.
        draws: How many times.
        seed: Of the dealing.
    """
    each = max(2, min(seeds, len(scores) // 2))
    several = max(1, min(variants, len(scores) // each - 1))
    rng = random.Random(seed)
    normal = ([rng.gauss(0, 1) for _ in scores] for _ in range(_POOLS))
    shares = sorted(_wrong(pool, several, each, _DRAWS, rng) / _DRAWS for pool in normal)
    sound = statistics.mean(shares) <= LEVEL + 3 * statistics.stdev(shares) / math.sqrt(_POOLS)
    chance = shares[int(0.95 * _POOLS)] if sound else 0.0
    rng = random.Random(seed)
    return Check(len(scores), several, each, draws, _wrong(scores, several, each, draws, rng), chance)


def _wrong(scores: Sequence[float], variants: int, seeds: int, draws: int, rng: random.Random) -> int:
    """Return in how many draws a verdict is wrong."""
    wrong = 0
    for _ in range(draws):
        dealt = rng.sample(list(scores), seeds * (variants + 1))
        groups = [dealt[i : i + seeds] for i in range(0, len(dealt), seeds)]
        found = compare([[a - b for a, b in zip(group, groups[0], strict=True)] for group in groups[1:]])
        wrong += any(c.verdict != "cannot tell" for c in found)
    return wrong
