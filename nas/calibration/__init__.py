"""Calibration: compare proxies with full training, and choose the cheapest one that agrees with it."""
