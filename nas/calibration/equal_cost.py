"""Rank agreement with both kinds of full training, that of the GFLOPs alone, and what is left of it at equal GFLOPs.

Larger models are often better, so a proxy may agree with full training only because both follow the cost, which is
known without any training. The partial rank correlation (`nas.calibration.rank_agreement.at_equal_cost`) leaves out
what the cost explains of both orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from nas.calibration.rank_agreement import Agreement, PartialAgreement, agreement, at_equal_cost
from nas.errors import NasError
from nas.space.variant import Variant

COST = "GFLOPs alone"
"""Name of the order by cost: more GFLOPs are better."""


@dataclass(frozen=True)
class CostRow:
    """How far one order of the variants agrees with one kind of full training.

    Attributes:
        order: Name of the order: a proxy, another kind of full training, or `COST`.
        score: Its score; empty for `COST`.
        full: Name of the kind of full training.
        agreement: That of one run of it.
        partial: The same at equal GFLOPs; None for `COST`.
    """

    order: str
    score: str
    full: str
    agreement: Agreement
    partial: PartialAgreement | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN is None."""
        body = asdict(self)
        if self.partial:
            body["partial"] = {k: None if v != v else v for k, v in asdict(self.partial).items()}
        return body


@cache
def gflops_of(variant: Variant) -> float:
    """Return the GFLOPs of a variant; NaN if it cannot be built."""
    from nas.model.cost import gflops_and_params  # it imports torch, which reports do not need

    try:
        return gflops_and_params(variant)[0]
    except NasError:
        return float("nan")


def cost_rows(
    orders: Mapping[tuple[str, str], np.ndarray], full: Mapping[str, np.ndarray], gflops: np.ndarray
) -> tuple[CostRow, ...]:
    """Return the agreement of the cost and of each order with each kind of full training.

    Args:
        orders: Name and score of an order to its values, (variants, seeds).
        full: Name of a kind of full training to its values, (variants, seeds); an order of that name is left out.
        gflops: Of the variants.

    Raises:
        ValueError: Fewer than 3 variants have all runs.
    """
    rows = []
    for name, judged in full.items():
        rows.append(CostRow(COST, "", name, agreement(gflops[:, None], judged), None))
        for (order, score), values in orders.items():
            if order != name:
                partial = at_equal_cost(values, judged, gflops)
                rows.append(CostRow(order, score, name, agreement(values, judged), partial))
    return tuple(rows)
