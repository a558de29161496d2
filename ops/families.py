"""All files with modules; importing this one registers them all. See `nas.ops.registry`."""

from nas.ops.lacking import stand_ins
from nas.ops.registry import complete

with stand_ins():
    from nas.ops import (
        akconv,
        attention,
        c2f,
        carafe,
        csp,
        dcnv2,
        dcnv3,
        dcnv4,
        dilated,
        downsample,
        dsconv,
        dualconv,
        dynamicconv,
        dysample,
        ghost,
        guided,
        heads,
        msblock,
        narrow,
        octconv,
        orepa,
        pconv,
        pooling,
        rcsosa,
        reparam,
        spconv,
        upsampling,
    )

__all__ = [
    "akconv",
    "attention",
    "c2f",
    "carafe",
    "csp",
    "dcnv2",
    "dcnv3",
    "dcnv4",
    "dilated",
    "downsample",
    "dsconv",
    "dualconv",
    "dynamicconv",
    "dysample",
    "ghost",
    "guided",
    "heads",
    "msblock",
    "narrow",
    "octconv",
    "orepa",
    "pconv",
    "pooling",
    "rcsosa",
    "reparam",
    "spconv",
    "upsampling",
]

complete()
