"""Training of one proxy: recipe, trainer, checkpoints and scores."""
