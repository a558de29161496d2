"""Sections of a report on trained models: full trainings, and what they detect."""
