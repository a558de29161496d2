"""What a study stores of latencies that are measured separately from its search. Light: it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nas.files import dataclass_from_plain


@dataclass(frozen=True)
class Latencies:
    """Latencies of variants, all of one machine and engine.

    Attributes:
        ms: Milliseconds of one image by ID of the variant: the baseline's time, or that times the ratio to it.
        failures: Why a variant has none, by ID: its export fails, or gives another answer.
    """

    ms: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for storing."""
        return asdict(self)

    @classmethod
    def from_plain(cls, body: Any) -> Latencies:
        """Return what `to_plain` gave; none for None.

        Raises:
            ValueError: It is damaged.
        """
        if body is None:
            return cls()
        found = dataclass_from_plain(cls, body, "latencies")
        if not all(0 < ms < float("inf") for ms in found.ms.values()):
            raise ValueError("a latency is not a positive number")
        return found
