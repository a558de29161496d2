"""Datasets, checked before any training."""
