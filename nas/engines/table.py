"""The table of `nas latency`, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nas.engines import ENGINES, Conditions
from nas.engines.measure import EngineLatency

_HEADER = ("model", "engine", "ms", "IQR", "ratio", "boxes", "scores")


def latency_lines(
    results: Mapping[str, Sequence[EngineLatency]], machines: Mapping[str, str], conditions: Conditions
) -> list[str]:
    """Return a table of latencies, with what it says of itself below.

    Args:
        results: By engine, the baseline first.
        machines: By engine, the machine as `nas.engines.measure.engine_machine`.
        conditions: Under what they were measured.
    """
    rows: list[tuple[str, ...]] = [_HEADER]
    failed = list[str]()
    for engine, found in results.items():
        title = ENGINES[engine].title
        for one in found:
            rows.append((one.name, title, *_cells(one)))
            if one.failure:
                failed.append(f"{one.name}, {title}: {one.failure}")
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADER))]
    table = [
        "  ".join(
            cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    baselines = dict.fromkeys(next((one.name for one in found if not one.failure), "") for found in results.values())
    first = " or ".join(filter(None, baselines)) or "the first that has not failed"
    return [
        *(line.rstrip() for line in table),
        *(f"failed: {line}" for line in failed),
        f"{conditions.words}; ms, IQR: median and interquartile range of the fused model's runs; ratio: to {first}.",
        "boxes, scores: largest difference from PyTorch's answer; boxes as a share of the image side.",
        *(f"{ENGINES[engine].title}: {on}" for engine, on in machines.items()),
    ]


def latency_json(
    results: Mapping[str, Sequence[EngineLatency]], machines: Mapping[str, str], conditions: Conditions
) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        **asdict(conditions),
        "engines": {
            engine: {"machine": machines[engine], "models": [asdict(one) for one in found]}
            for engine, found in results.items()
        },
    }


def _cells(one: EngineLatency) -> tuple[str, ...]:
    """Return the figures of a row."""
    if one.failure:
        return ("failed", "", "", *_differences(one))
    assert one.ms is not None
    assert one.spread_ms is not None
    assert one.ratio is not None
    return (f"{one.ms:.2f}", f"{one.spread_ms:.2f}", f"{one.ratio:.3f}", *_differences(one))


def _differences(one: EngineLatency) -> tuple[str, str]:
    """Return the two differences."""
    boxes, scores = ("" if value is None else f"{value:.1e}" for value in (one.boxes, one.scores))
    return boxes, scores
