"""Proxy trainings: recipe, jobs, trainer, checkpoints, scores."""
