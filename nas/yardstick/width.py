"""The width multiple of a yardstick: the widest model within a budget, by real counts.

Uniform structured pruning at one ratio, with channels in multiples of 8, gives the stock network with fewer channels in
its rows (`nas.space.variant.make_yardstick`). So a yardstick is a model YAML that plain Ultralytics trains, and
`nas.yardstick.prune` only gives it its initial weights. Its head follows Ultralytics' own rule: the hidden channels of
the branches have a floor there, which fewer input channels do not lower.
"""

from __future__ import annotations

from nas.errors import SpaceError
from nas.model.cost import Cost, costed
from nas.space.bases import load_base
from nas.space.variant import Variant, check_scale, make_yardstick

STEPS = 10_000
"""Width multiples that are tried, for each 1.0."""
PRUNABLE = frozenset({"Conv", "C2f", "C3", "SPP", "SPPF", "nn.Upsample", "Concat", "Detect", "Segment", "Pose", "OBB"})
"""Modules whose channels `nas.yardstick.channels` can choose from."""
_COSTS: dict[tuple[object, ...], Cost] = {}


def check_prunable(base: str, scale: str) -> None:
    """Raise SpaceError if a base cannot be pruned uniformly."""
    graph = load_base(base)
    check_scale(graph, scale)
    if not graph.scales:
        raise SpaceError(f"{base} has one size and no width multiple, so it has no yardstick")
    if others := sorted({layer.module for layer in graph.layers} - PRUNABLE):
        raise SpaceError(
            f"{base} has no yardstick: {', '.join(others)} cannot be pruned to another width with their weights; what "
            f"can: {', '.join(sorted(PRUNABLE))}"
        )


def cost_of(variant: Variant) -> Cost:
    """Return the cost of a yardstick or baseline, by building it; widths that give the same model are built once."""
    key = (variant.base, variant.scale, tuple(layer.args for layer in variant.graph().layers))
    if key not in _COSTS:
        _COSTS[key] = costed(variant)[1]
    return _COSTS[key]


def widest_within(base: str, scale: str, gflops: float) -> Variant:
    """Return the widest yardstick of at most these GFLOPs (`nas.model.cost`).

    Raises:
        SpaceError: The base cannot be pruned, has no more than these GFLOPs itself, or has no yardstick of so few.
    """
    check_prunable(base, scale)
    stock = Variant(base, scale)
    own = cost_of(stock).gflops
    if gflops >= own:
        raise SpaceError(f"a yardstick of {gflops:.2f} GFLOPs would not be smaller than {stock.stock}, of {own:.2f}")
    low, high = 0, round(load_base(base).scales[scale][1] * STEPS)  # the widest within that is known, the first above
    while high - low > 1:
        middle = (low + high) // 2
        within = cost_of(make_yardstick(base, scale, middle / STEPS)).gflops <= gflops
        low, high = (middle, high) if within else (low, middle)
    if not low:
        least = cost_of(make_yardstick(base, scale, 1 / STEPS)).gflops
        raise SpaceError(
            f"no width of {stock.stock} has at most {gflops:.2f} GFLOPs: the narrowest has {least:.2f}, the stock "
            f"model {own:.2f}"
        )
    return make_yardstick(base, scale, low / STEPS)
