"""The modules that a search may swap in; `nas.ops.families` registers them all. See `nas.ops.registry`."""

from nas.ops import listing

__all__ = ["listing"]
