"""The A/A check: how often verdicts call the baseline different from itself.

The baseline is trained under many seeds. Its scores are assigned at random to a baseline and to several pretended
variants, and verdicts are computed as for a ranking (`nas.ranking.verdict`), many times. Nothing differs, so every
verdict but *cannot tell* is a false positive.

Draws from one small pool of scores are correlated: for some pools many of them are wrong by chance. How often that
happens is estimated by the same check on pools of normal numbers.

Scores of different seeds are compared here, so that the common effect of a seed does not cancel as it does in a
ranking: the errors are larger, and so are the error estimates of the verdicts.
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
"""The fewest seeds of the baseline that can be split."""
_POOLS, _DRAWS = 100, 100
"""Pools of normal numbers, and draws from each, that give the rate expected by chance."""
DRAWS = 1000


@dataclass(frozen=True)
class AACheck:
    """The result of the check.

    Attributes:
        pool: Seeds of the baseline.
        variants: Pretended variants in each draw.
        seeds: Seeds of each of them.
        draws: Number of random splits.
        wrong: Draws with at least one verdict.
        chance: Share of wrong draws that 95 of 100 pools of normal numbers of this size stay below; 0 if verdicts are
            wrong too often even over all of these pools.
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
        """True if that is at most the level of the verdicts, or what a pool of this size gives by chance."""
        return self.share <= max(LEVEL, self.chance)

    @property
    def text(self) -> str:
        """The check in a line."""
        kind = "variant" if self.variants == 1 else "variants"
        compared = f"at most the {LEVEL:.0%} that verdicts promise"
        if self.share > LEVEL:
            how = "but no more" if self.passes else "and more"
            compared = f"more than the {LEVEL:.0%} of the promise, {how} than chance gives here ({self.chance:.1%})"
        return (
            f"A/A: {self.pool} seeds of the baseline, dealt out {self.draws} times to a baseline and {self.variants} "
            f"{kind} of {self.seeds} seeds each: called different in {self.share:.1%} of the draws, {compared}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "share": self.share, "passes": self.passes}


def run_aa_check(scores: Sequence[float], variants: int, seeds: int, *, draws: int = DRAWS, seed: int = 0) -> AACheck:
    """Split scores of the baseline at random and count the draws in which a verdict is wrong.

    Args:
        scores: Of the baseline, one a seed, at least `LEAST`.
        variants: Number of pretended variants; fewer if there are not enough scores to use each once.
        seeds: Seeds of each of them; at most half of the scores.
        draws: Number of random splits.
        seed: Of the random splits.
    """
    each = max(2, min(seeds, len(scores) // 2))
    several = max(1, min(variants, len(scores) // each - 1))
    rng = random.Random(seed)
    normal = ([rng.gauss(0, 1) for _ in scores] for _ in range(_POOLS))
    shares = sorted(_wrong(pool, several, each, _DRAWS, rng) / _DRAWS for pool in normal)
    sound = statistics.mean(shares) <= LEVEL + 3 * statistics.stdev(shares) / math.sqrt(_POOLS)
    chance = shares[int(0.95 * _POOLS)] if sound else 0.0
    rng = random.Random(seed)
    return AACheck(len(scores), several, each, draws, _wrong(scores, several, each, draws, rng), chance)


def _wrong(scores: Sequence[float], variants: int, seeds: int, draws: int, rng: random.Random) -> int:
    """Return the number of draws in which a verdict is wrong."""
    wrong = 0
    for _ in range(draws):
        dealt = rng.sample(list(scores), seeds * (variants + 1))
        groups = [dealt[i : i + seeds] for i in range(0, len(dealt), seeds)]
        found = compare([[a - b for a, b in zip(group, groups[0], strict=True)] for group in groups[1:]])
        wrong += any(c.verdict != "cannot tell" for c in found)
    return wrong
