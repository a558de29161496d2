"""The modules that a search may swap in; importing this package registers them all. See `nas.ops.registry`."""

from nas.ops import attention, c2f, carafe, dcnv4, dynamicconv, dysample, guided, pooling, spconv, upsampling

__all__ = [
    "attention",
    "c2f",
    "carafe",
    "dcnv4",
    "dynamicconv",
    "dysample",
    "guided",
    "pooling",
    "spconv",
    "upsampling",
]
