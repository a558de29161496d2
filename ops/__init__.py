"""The modules that a search may swap in; importing this package registers them all. See `nas.ops.registry`."""

from nas.ops import c2f, carafe, dcnv4, dynamicconv, dysample, spconv

__all__ = ["c2f", "carafe", "dcnv4", "dynamicconv", "dysample", "spconv"]
