"""Datasets, checked before anything is trained."""
