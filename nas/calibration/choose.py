"""Choose a proxy: the cheapest that distinguishes the variants and agrees with full training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.calibration.rank_agreement import Agreement
from nas.calibration.resolution import Merit

LEARNT = 0.02
"""Mean mAP50-95 below which the variants of a proxy have not learnt enough to be compared."""
_NO_JUDGE = 0.3
"""Spearman between seeds of full training below which it is too noisy to compare proxies with."""


@dataclass(frozen=True)
class ProxyMerit:
    """The merit of one score of one proxy.

    Attributes:
        proxy: Name of the proxy.
        score: Name of the score.
        merit: In units of mAP50-95.
        agreement: One run of it against the mean of full training.
        agreement_mean: The mean of its seeds against the same.
        minutes: Mean CPU minutes of a run.
        once_minutes: CPU minutes once per study, for a teacher and a bank; not part of the cost of a variant.
        failures: Number of failed runs.
        scale: Factor from the score's unit to that of mAP; 1 for scores that are an mAP.
    """

    proxy: str
    score: str
    merit: Merit
    agreement: Agreement
    agreement_mean: Agreement
    minutes: float
    once_minutes: float = 0.0
    failures: int = 0
    scale: float = 1.0

    @property
    def label(self) -> str:
        """Proxy and score."""
        return f"{self.proxy}, {self.score}"

    def cost(self, difference: float = 0.005) -> float:
        """Return the CPU minutes per variant to resolve a difference of mAP50-95; the number of runs is not rounded."""
        return self.merit.seeds_for(difference) * self.minutes

    def price(self, difference: float = 0.005) -> float:
        """Return `cost`, but no less than one run's minutes."""
        return max(self.cost(difference), self.minutes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing; an infinite ratio is None."""
        body = asdict(self)
        body["merit"] = {k: _finite(v) for k, v in body["merit"].items()}
        return body


def choose_proxy(
    reports: Sequence[ProxyMerit], ceiling: float | None = None, *, difference: float = 0.005, least: float = 0.7
) -> tuple[ProxyMerit, str]:
    """Return the cheapest adequate proxy, and an explanation.

    A proxy is adequate if its variants have learnt, their spread is larger than its error, and one run has a Spearman
    of at least `least` with full training, or the ceiling if that is lower. If full training does not even agree with
    itself, the Spearman is ignored. The cheapest has the lowest `ProxyMerit.price`. If none is adequate, the one with
    the highest Spearman is returned, as the explanation then states.

    Args:
        reports: At least one.
        ceiling: Spearman of one seed of full training with another; None if it was not measured.
        difference: mAP50-95 to resolve.
        least: Spearman to reach.

    Raises:
        ValueError: There are no reports.
    """
    if not reports:
        raise ValueError("there is no proxy to choose from")
    blind = ceiling is not None and ceiling < _NO_JUDGE
    bar = -1.0 if blind else least if ceiling is None else min(least, ceiling)
    clear = [r for r in reports if r.merit.ratio > 1 and r.merit.mean >= LEARNT]
    adequate = [r for r in clear if r.agreement.spearman >= bar]
    judged = f"Spearman {{:.2f}} (at least {bar:.2f})"
    if blind:
        judged = f"Spearman {{:.2f}} (not used: full training agrees with itself by only {ceiling:.2f})"
    if adequate:
        best = min(adequate, key=lambda r: (r.price(difference), -r.agreement.spearman, r.label))
        return best, (
            f"{best.label} is the cheapest of {len(adequate)} adequate (of {len(reports)}): "
            f"{best.price(difference):.3g} CPU minutes a variant to resolve {difference:g} mAP50-95, "
            f"{judged.format(best.agreement.spearman)}, variance between variants {best.merit.ratio:.3g} times the "
            "error's (above 1)."
        )
    best = max(reports, key=lambda r: (r.merit.mean >= LEARNT, r.agreement.spearman, -r.price(difference)))
    drowned = len(reports) - len(clear)
    low = f"{sum(r.agreement.spearman < bar for r in reports)} below a Spearman of {bar:.2f} with full training, "
    return best, (
        f"None of {len(reports)} is adequate: {'' if blind else low}{drowned} that learnt nothing or err by no less "
        f"than the variants differ. {best.label} has the highest Spearman, {best.agreement.spearman:.2f}; its order is "
        "not to be relied on."
    )


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
