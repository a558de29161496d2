"""Attentions for insertion slots (``after NAME``): they keep channels and size."""

from nas.ops.attention import acmix, channel, context, ema, hosted, lska, position, simam

__all__ = ["acmix", "channel", "context", "ema", "hosted", "lska", "position", "simam"]
