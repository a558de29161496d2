"""Datasets, checked before anything is trained."""

from nas.data.dataset import load, write_resolved

__all__ = ["load", "write_resolved"]  # training scripts that were emitted import them from here
