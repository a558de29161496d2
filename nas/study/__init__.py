"""Studies: the settings and trials of a search, stored in SQLite or PostgreSQL so that it can resume."""

from __future__ import annotations

from collections.abc import Mapping

OBJECTIVES: Mapping[str, str] = {
    "map_per_gflop": "mAP50-95 per GFLOP",
    "map": "mAP50-95",
    "map,gflops": "mAP50-95 and GFLOPs",
    "map,latency": "mAP50-95 and latency",
}
"""All objectives with their descriptions; here, so that the command line offers them without importing numpy."""
