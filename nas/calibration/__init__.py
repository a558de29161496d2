"""Calibration: which proxy ranks variants as full training does, at what cost."""
